"""Memory of the card and of the computer: what is used now."""
