"""The folder of a resume test: there while the test lasts, locked, and removed later where the test was killed."""

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

FOLDER = ".test-resume-"
LOCK_FILE = ".lock"
LOCKED_WITHIN_SECONDS = 60
"""After its folder was made, a test has its lock; in fact within a thousandth."""
ABANDONED_AFTER_SECONDS = 600
"""Without a word, of a test whose lock tells nothing, since the drive knows none."""


@contextmanager
def folder_of_test(logdir: Path) -> Iterator[Path]:
    """Give a folder below `logdir`, and remove it at the end with all that is in it. Raises OSError."""
    folder = logdir / f"{FOLDER}{os.getpid()}-{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    lock = FileLock(folder / LOCK_FILE, thread_local=False)
    try:
        with contextlib.suppress(OSError):  # the drive knows no locks
            lock.acquire(timeout=0)
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def sweep_tests(logdir: Path) -> None:
    """Remove what tests below `logdir` left that were killed themselves, which may be many GB."""
    for folder in logdir.glob(f"{FOLDER}*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    """Whether the test of a folder is over; the number of a process may be another's by now, or another computer's."""
    found = re.fullmatch(rf"{re.escape(FOLDER)}(\d+)-\w+", folder.name)
    if not found:
        return False
    is_gone, silent_seconds = not psutil.pid_exists(int(found[1])), time.time() - _last_written(folder)
    if (folder / LOCK_FILE).is_file():
        try:
            with FileLock(folder / LOCK_FILE, timeout=0, thread_local=False):
                return is_gone or silent_seconds > LOCKED_WITHIN_SECONDS
        except Timeout:
            return False
        except OSError:  # the drive knows no locks
            pass
    return is_gone and silent_seconds > ABANDONED_AFTER_SECONDS


def _last_written(folder: Path) -> float:
    """When a test last wrote; now where that cannot be told."""
    with contextlib.suppress(OSError):
        return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    return time.time()
