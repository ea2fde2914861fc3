"""Removing a run or a checkpoint, and what killed programs left below a runs folder, which may be many GB."""

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from ed2.app.runs.records import RunRecord, saved_size
from ed2.checkpoint.folder import leftovers_in, remove_leftovers
from ed2.checkpoint.identity import CKPTS, average_of, checkpoints_of, is_pinned, is_run
from ed2.checkpoint.run_lock import LOCK_FILE
from ed2.disk import remove_tree
from ed2.errors import RefusedError

TEST_FOLDER = ".test-resume-"
LOCKED_WITHIN_SECONDS = 60
"""A resume test locks its folder within this time after creating it; in practice a thousandth of it."""
ABANDONED_AFTER_SECONDS = 600
"""Time without any writing after which a resume test is over, on a drive that supports no locks."""


def remove_half_files(run_dir: Path) -> None:
    """Remove half-written samples and lists from a run's folder."""
    for pattern in (".tmp-*", "samples/*/.tmp-*", ".*.tmp", "samples/.*.tmp", "samples/*/.*.tmp"):
        for leftover in run_dir.glob(pattern):
            if leftover.is_file():
                leftover.unlink(missing_ok=True)


def sweep_runs(logdir: Path) -> None:
    """Remove half-written and half-removed checkpoints from all runs below `logdir`, resumed or not.

    Runs that are being trained are left alone, and so are runs on a drive that supports no locks.
    """
    for ckpts in logdir.glob(f"[!.]*/{CKPTS}"):
        if is_run(ckpts.parent) and any(leftovers_in(ckpts)):
            lock = FileLock(ckpts.parent / LOCK_FILE, timeout=0, thread_local=False)
            with contextlib.suppress(Timeout, OSError), lock:
                remove_leftovers(ckpts)


@contextmanager
def resume_test_folder(logdir: Path) -> Iterator[Path]:
    """Yield a locked folder below `logdir`, which is removed at the end with all its content. Raises OSError."""
    folder = logdir / f"{TEST_FOLDER}{os.getpid()}-{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    lock = FileLock(folder / LOCK_FILE, thread_local=False)
    try:
        with contextlib.suppress(OSError):  # the drive supports no locks
            lock.acquire(timeout=0)
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def sweep_resume_tests(logdir: Path) -> None:
    """Remove the folders of killed resume tests below `logdir`."""
    for folder in logdir.glob(f"{TEST_FOLDER}*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    """Whether the test of a folder is over. Its process number may belong to another process, or another computer."""
    found = re.fullmatch(rf"{re.escape(TEST_FOLDER)}(\d+)-\w+", folder.name)
    if not found:
        return False
    is_gone, silent_seconds = not psutil.pid_exists(int(found[1])), time.time() - _last_written(folder)
    if (folder / LOCK_FILE).is_file():
        try:
            with FileLock(folder / LOCK_FILE, timeout=0, thread_local=False):
                return is_gone or silent_seconds > LOCKED_WITHIN_SECONDS
        except Timeout:
            return False
        except OSError:  # the drive supports no locks
            pass
    return is_gone and silent_seconds > ABANDONED_AFTER_SECONDS


def _last_written(folder: Path) -> float:
    """When a test last wrote; now if that is unknown."""
    with contextlib.suppress(OSError):
        return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    return time.time()


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
        fix = "Press Unprotect beside it first."
        raise RefusedError(f"{checkpoint.name} cannot be deleted", "it is protected", fix)
    freed = saved_size(checkpoint)
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
