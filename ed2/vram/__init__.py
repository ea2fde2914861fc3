"""GPU memory: planned from the settings, and what to change; current use of GPU and system memory."""
