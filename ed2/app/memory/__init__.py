"""The memory of a run: planned before it, measured during it, and corrected by earlier measurements."""
