"""Checkpoints that are never thinned, because someone said so. Without torch, for the page."""

from pathlib import Path

KEEP_FILE = "KEEP"
"""A file of this name in a checkpoint's folder keeps it whole; its content does not matter."""


def is_kept(checkpoint: Path) -> bool:
    """Whether a checkpoint is to stay whatever the settings say."""
    return (checkpoint / KEEP_FILE).exists()


def keep(checkpoint: Path, is_wanted: bool) -> None:
    """Say whether a checkpoint is to stay. Raises OSError."""
    if is_wanted:
        (checkpoint / KEEP_FILE).touch()
    else:
        (checkpoint / KEEP_FILE).unlink(missing_ok=True)
