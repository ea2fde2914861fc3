"""Fine-tune Stable Diffusion on your own images."""

__version__ = "0.1.0"
