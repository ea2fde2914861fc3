"""The commands that take a LoRA out of a model, or add one to it."""
