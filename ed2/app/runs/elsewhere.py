"""Runs that other programs train: found by the locks of their folders, at next to no cost."""

import contextlib
from pathlib import Path

from ed2.checkpoint.run_lock import HOLDER_FILE, Holder, other_trainer

LOOK_SECONDS = 5.0
REST = 50
"""The time from one look to the next is at least so many times that of the look: a long run takes a while to read."""


class Elsewhere:
    """Looks for runs of other programs below a folder of logs.

    A lock is tried only where its holder was written down since it was last found free.
    """

    def __init__(self, logdir: Path) -> None:
        self._logdir = logdir
        self._free: dict[Path, int] = {}

    def running(self) -> tuple[Path, Holder] | None:
        """The folder of the run that another program began last and still trains, and who that is."""
        for begun_at, run_dir in sorted(self._begun(), reverse=True):
            if self._free.get(run_dir) == begun_at:
                continue
            if other := other_trainer(run_dir):
                return run_dir, other
            self._free[run_dir] = begun_at
        return None

    def _begun(self) -> list[tuple[int, Path]]:
        """When each run was begun or continued last, with its folder."""
        found = []
        for file in self._logdir.glob(f"*/{HOLDER_FILE}"):
            with contextlib.suppress(OSError):  # removed just now
                found.append((file.stat().st_mtime_ns, file.parent))
        return found
