"""The memory of a run: planned beforehand, measured during the run, and what the next plans learn from that."""
