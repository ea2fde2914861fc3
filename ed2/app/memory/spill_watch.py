"""Warns once of a run that has begun to use the computer's memory in place of the card's."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ed2.events import Event, MetricsLogged, StepDone, Warned
from ed2.training.state import Run
from ed2.vram.spill import CURE, RECENT_STEPS, STEPS_BEFORE, StepReading, slowdown

CARD_SECONDS = 2.0
"""The card is asked no more often than this."""
KEPT = 10 * STEPS_BEFORE + RECENT_STEPS


@dataclass
class SpillWatch:
    """Listens to the steps of a run; what else happens between two of them makes their time tell nothing.

    Attributes:
        run: whose steps.
        fullness: asks the card which share of its memory is taken.
        clock: seconds.
    """

    run: Run
    fullness: Callable[[], float]
    clock: Callable[[], float] = time.monotonic
    _readings: deque[StepReading] = field(default_factory=lambda: deque(maxlen=KEPT))
    _conditions: tuple[object, ...] = ()
    _step_at: float | None = None
    _asked: tuple[float, float] = (-CARD_SECONDS, 0.0)
    _is_told: bool = False

    def __call__(self, event: Event) -> None:
        """Take notice of an event."""
        if not isinstance(event, StepDone):
            self._step_at = self._step_at if isinstance(event, MetricsLogged) else None
            return
        now, before = self.clock(), self._step_at
        self._step_at = now
        conditions = (self.run.state.checkpointing, self.run.state.at_once)
        if conditions != self._conditions:  # a step takes another time by right
            self._conditions = conditions
            self._readings.clear()
        if before is None or self._is_told:
            return
        self._readings.append(StepReading(now - before, self._fullness(now)))
        factor = slowdown(tuple(self._readings))
        if factor:
            self._is_told = True
            text = f"Steps take {factor:.1f} times as long as before, and the card's memory is full"
            reason = "its driver seems to use the computer's memory instead"
            self.run.bus.emit(Warned(event.step, f"{text}: {reason}. {CURE}"))

    def _fullness(self, now: float) -> float:
        if now - self._asked[0] >= CARD_SECONDS:
            self._asked = now, self.fullness()
        return self._asked[1]
