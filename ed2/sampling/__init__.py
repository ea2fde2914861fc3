"""Sample images while a model learns."""
