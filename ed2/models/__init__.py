"""The diffusion models that can be trained, and their files."""
