"""The memory of a run: planned before it, measured while it lasts, and what is learnt from that."""
