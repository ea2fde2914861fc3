"""Deleting a run, or one of its checkpoints, and what that frees."""

from pathlib import Path

from ed2.app.phases import RefusedError
from ed2.app.runs.records import RunRecord, checkpoints_of, folder_size
from ed2.checkpoint.identity import average_of, is_pinned, is_run
from ed2.disk import remove_tree


def checkpoint_size(checkpoint: Path) -> int:
    """Bytes of a checkpoint, with its EMA."""
    return sum(folder_size(folder) for folder in (checkpoint, average_of(checkpoint)) if folder.is_dir())


def is_last_checkpoint(run: RunRecord, checkpoint: Path) -> bool:
    """Whether the run would have no checkpoint without this one."""
    return checkpoints_of(run.folder) == [checkpoint]


def remove_checkpoint(run: RunRecord, checkpoint: Path) -> int:
    """Delete a checkpoint of a run with its EMA; returns the bytes that this freed.

    Raises:
        RefusedError: the run is being trained, or the checkpoint is protected.
        OSError: it cannot be deleted.
    """
    _require_at_rest(run)
    if is_pinned(checkpoint):
        fix = "Uncheck it under Protected checkpoints first."
        raise RefusedError(f"{checkpoint.name} cannot be deleted", "it is protected", fix)
    freed = checkpoint_size(checkpoint)
    for folder in (average_of(checkpoint), checkpoint):
        if folder.is_dir():
            remove_tree(folder)
    return freed


def remove_run(run: RunRecord) -> int:
    """Delete the folder of a run; returns the bytes that this freed. Single files elsewhere stay.

    Raises:
        RefusedError: the run is being trained.
        OSError: it cannot be deleted.
    """
    _require_at_rest(run)
    if not is_run(run.folder) or run.folder.is_symlink():
        raise RefusedError(f"{run.folder.name} cannot be deleted", "it is not the folder of a run", "")
    remove_tree(run.folder)
    return run.size_bytes


def _require_at_rest(run: RunRecord) -> None:
    if run.state == "running":
        raise RefusedError("Nothing was deleted", "the run is being trained", "Stop it first, or wait until it ends.")
