"""One run, one trainer: a lock of the operating system in the run's folder, which the end of the program frees."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ed2.disk import write_whole
from ed2.errors import CheckpointError

LOCK_FILE = ".lock"
HOLDER_FILE = ".lock-holder.json"
"""Beside the lock, since Windows lets nobody read a locked file."""

logger = logging.getLogger(__name__)


@contextmanager
def only_trainer(run_dir: Path) -> Iterator[None]:
    """Hold the lock of a run. Where the drive knows no locks, that is logged and nothing is held.

    Raises:
        CheckpointError: another program trains this run; says which.
    """
    lock = FileLock(run_dir / LOCK_FILE, thread_local=False)
    try:
        lock.acquire(timeout=0)
        _tell_holder(run_dir)
    except Timeout:
        raise _is_taken(run_dir) from None
    except OSError as error:
        logger.warning("The run's folder cannot be locked against a second trainer (%s).", error)
    try:
        yield
    finally:
        lock.release()


def _tell_holder(run_dir: Path) -> None:
    holder = {"pid": os.getpid(), "started_at": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    try:
        write_whole(run_dir / HOLDER_FILE, json.dumps(holder).encode())
    except OSError as error:
        logger.warning("The run's folder is locked, but not by whom could be written down (%s).", error)


def _is_taken(run_dir: Path) -> CheckpointError:
    try:
        holder = json.loads((run_dir / HOLDER_FILE).read_text(encoding="utf-8"))
        who = f"process {int(holder['pid'])} since {str(holder['started_at'])[:19]}."
    except (OSError, ValueError, KeyError, TypeError):
        who = "another program."
    fix = "Wait for its end or stop it; to train the same once more, begin a new run."
    return CheckpointError(f"The run {run_dir.name} is being trained already", f"by {who}", fix)
