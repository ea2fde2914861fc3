"""GPU memory: the plan from the settings, suggested changes, and the current use of GPU and system memory."""
