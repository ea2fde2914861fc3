"""Checkpoints: written whole or not at all, and everything back when a run goes on."""
