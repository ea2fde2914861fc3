"""Telling how far the comparison of a checkpoint's bytes is, which may take a minute, and ending it at a stop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ed2.app.images.scanning import TimeLeft
from ed2.events import EventBus, Phase, PhaseChanged
from ed2.text import file_size
from ed2.training.controls import Controls

TELL_SECONDS = 5.0


@dataclass
class Verifying:
    """Tells of a comparison at its beginning and every few seconds, and leaves it when a stop was asked for.

    Attributes:
        controls: ask for the stop; without them it is not left.
        step: of the run.
        phase: what the run is doing meanwhile.
        clock: seconds; for tests.
    """

    bus: EventBus
    controls: Controls | None
    step: int = 0
    phase: Phase = "preparing"
    clock: Callable[[], float] = time.monotonic
    _time_left: TimeLeft = field(default_factory=TimeLeft)
    _told_at: float = 0.0

    def __call__(self, name: str, done: int, total: int) -> None:
        """Go on. Raises StopRequested."""
        if self.controls:
            self.controls.obey_stop()
        if not done:
            self._time_left = TimeLeft(self.clock)
            self._time_left.suffix(done, total)
            self._tell(f"comparing every byte of {name}, {file_size(total)}")
        elif self.clock() - self._told_at >= TELL_SECONDS:
            self._tell(
                f"comparing {name}, {file_size(done)} of {file_size(total)}{self._time_left.suffix(done, total)}"
            )

    def _tell(self, text: str) -> None:
        self._told_at = self.clock()
        self.bus.emit(PhaseChanged(self.step, self.phase, text))
