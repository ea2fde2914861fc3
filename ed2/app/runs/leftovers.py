"""Removes what killed programs left behind below a runs folder, which may be many GB."""

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

from ed2.checkpoint.folder import leftovers_in, remove_leftovers
from ed2.checkpoint.identity import CKPTS, is_run
from ed2.checkpoint.run_lock import LOCK_FILE

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
