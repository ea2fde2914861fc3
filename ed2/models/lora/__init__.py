"""LoRA files: their names, reading and writing them, taking one from two models, and adding one to a model."""
