"""What `scripts/on_gpu` measures."""
