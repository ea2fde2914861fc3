"""Fine-tune Stable Diffusion on your own images."""

__version__ = "0.2.0"
