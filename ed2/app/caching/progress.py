"""The progress of a pass that fills a cache, in which the run can be stopped and paused."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

from ed2.app.images.scanning import TimeLeft
from ed2.events import PhaseChanged, Progressed
from ed2.training.loop import handle_requests
from ed2.training.state import Run

REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class FillShare:
    """What one of several processes does of a pass, whatever the others find missing."""

    place: int = 0
    count: int = 1

    def has(self, key: bytes) -> bool:
        """Whether what this key names is in the share."""
        return crc32(key) % self.count == self.place


EVERYTHING = FillShare()


@dataclass
class FillProgress:
    """Reports how far a pass is, and does what was requested in the meantime.

    Attributes:
        doing: what the pass does, such as "caching image".
        total: how many times `advance` is called.
        clock: seconds; for tests.
    """

    training: Run
    doing: str
    total: int
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    _reported_at: float = 0.0

    def __post_init__(self) -> None:
        self._time_left = TimeLeft(self.clock)
        self._time_left.suffix(0, self.total)

    def announce(self, detail: str) -> None:
        """Enter the phase; `detail` is for people."""
        self.training.bus.emit(PhaseChanged(self.training.state.step, "caching", detail))

    def advance(self) -> None:
        """Count one more. Raises StopRequested."""
        run = self.training
        was_pausing = run.controls.pausing
        handle_requests(run)
        self.done += 1
        if was_pausing:
            self.announce(f"{self.doing} {self.done:,} of {self.total:,}")
        if self.clock() - self._reported_at >= REPORT_SECONDS:
            self._reported_at = self.clock()
            left = self._time_left.suffix(self.done, self.total)
            run.bus.emit(Progressed(run.state.step, self.doing, self.done, self.total, left))
