"""One run, one trainer: a file lock in the run's folder, which the operating system frees when the program exits."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ed2.disk import write_whole
from ed2.errors import CheckpointError
from ed2.small_files import read_object

LOCK_FILE = ".lock"
HOLDER_FILE = ".lock-holder.json"
"""Next to the lock, since a locked file cannot be read on Windows."""

LOCK_SECONDS = 0.2
"""How long a trainer tries to get the lock; whoever only tests the lock holds it for less than a thousandth of that."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """The program that trains a run; process and time are None if unknown."""

    pid: int | None = None
    since: str | None = None

    @property
    def name(self) -> str:
        """The program, for use within a sentence."""
        if self.pid is None:
            return "another program"
        return f"another program (process {self.pid})"


def other_trainer(run_dir: Path) -> Holder | None:
    """The other program that trains this run; None if there is none, or if that is unknown.

    Returns at once and leaves no file.
    """
    if not (run_dir / LOCK_FILE).is_file():
        return None
    try:
        with FileLock(run_dir / LOCK_FILE, timeout=0, thread_local=False):
            return None
    except Timeout:
        holder = _holder(run_dir)
        if holder.pid == os.getpid():
            return None
        return holder
    except OSError:
        return None


@contextmanager
def only_trainer(run_dir: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock of a run; on a drive without support for locks, log that and hold nothing.

    Yields:
        A function that takes the lock again if its file was deleted.

    Raises:
        CheckpointError: another program trains this run; says which.
    """
    lock = FileLock(run_dir / LOCK_FILE, thread_local=False)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
        _write_holder(run_dir)
    except Timeout:
        raise _is_taken(run_dir) from None
    except OSError as error:
        logger.warning("The run's folder cannot be locked, so a second program could train the same run (%s).", error)

    def renew() -> None:
        if not (run_dir / LOCK_FILE).exists():
            lock.release(force=True)
            with suppress(Timeout, OSError):
                lock.acquire(timeout=LOCK_SECONDS)
                _write_holder(run_dir)

    try:
        yield renew
    finally:
        lock.release()


def _write_holder(run_dir: Path) -> None:
    holder = {"pid": os.getpid(), "started_at": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    try:
        write_whole(run_dir / HOLDER_FILE, json.dumps(holder).encode())
    except OSError as error:
        logger.warning("The run's folder is locked, but its lock file could not name this program (%s).", error)


def _holder(run_dir: Path) -> Holder:
    try:
        written = read_object(run_dir / HOLDER_FILE)
        return Holder(int(written["pid"]), str(written["started_at"])[:19])
    except (OSError, ValueError, KeyError, TypeError):
        return Holder()


def _is_taken(run_dir: Path) -> CheckpointError:
    holder = _holder(run_dir)
    who = "another program." if holder.pid is None else f"process {holder.pid} since {holder.since}."
    fix = "Wait until it ends, stop it, or start a new run."
    return CheckpointError(f"The run {run_dir.name} is already being trained", f"by {who}", fix)
