"""Checkpoints that are never thinned, because someone said so. Without torch, for the page."""

from pathlib import Path

from ed2.checkpoint.order import average_of

KEEP_FILE = "KEEP"
"""A file of this name in a checkpoint's folder keeps it whole; its content does not matter."""


def is_kept(checkpoint: Path) -> bool:
    """Whether a checkpoint is to stay whatever the settings say; a mark on its average is one on both."""
    return any((folder / KEEP_FILE).exists() for folder in (checkpoint, average_of(checkpoint)))


def keep(checkpoint: Path, is_wanted: bool) -> None:
    """Say whether a checkpoint is to stay. Raises OSError."""
    if is_wanted:
        (checkpoint / KEEP_FILE).touch()
    else:
        for folder in (checkpoint, average_of(checkpoint)):
            (folder / KEEP_FILE).unlink(missing_ok=True)
