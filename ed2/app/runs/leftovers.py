"""What killed programs left half written in runs that may never go on: a checkpoint cut short may be many GB."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ed2.checkpoint.folder import leftovers_in, remove_leftovers
from ed2.checkpoint.identity import CKPTS, is_run
from ed2.checkpoint.run_lock import LOCK_FILE


def sweep_runs(logdir: Path) -> None:
    """Remove what is half written or half removed among the checkpoints of the runs below `logdir`.

    A run that is being trained keeps all, and so do runs on a drive that knows no locks.
    """
    for run_dir in _with_leftovers(logdir):
        with suppress(Timeout, OSError), FileLock(run_dir / LOCK_FILE, timeout=0, thread_local=False):
            remove_leftovers(run_dir / CKPTS)


def _with_leftovers(logdir: Path) -> Iterator[Path]:
    for ckpts in logdir.glob(f"[!.]*/{CKPTS}"):
        if is_run(ckpts.parent) and any(leftovers_in(ckpts)):
            yield ckpts.parent
