"""Sample pictures while a model learns."""
