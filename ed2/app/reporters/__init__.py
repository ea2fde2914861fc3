"""Observers of a run: the terminal, TensorBoard, `events.jsonl` and `run.log`."""
