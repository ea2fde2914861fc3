"""When to save: by minutes, by epochs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ed2.checkpoint.saver import Saver
from ed2.errors import CheckpointError
from ed2.events import CheckpointSaved, EventBus, SavingChanged, Warned
from ed2.training.state import Run, TrainState


@dataclass
class CheckpointJob:
    """Saves every so many minutes and epochs; the checkpoint at the end of the run is not its work.

    Attributes:
        minutes: between two saves by the clock, 0 for never.
        epochs: between two saves by epochs, 0 for never.
        first_epoch: no saves by epochs before so many are done.
    """

    saver: Saver
    training: Run
    bus: EventBus
    minutes: float
    epochs: int
    first_epoch: int = 0
    _saved_at: float = field(default_factory=time.monotonic)

    def due(self, state: TrainState) -> bool:
        """Whether the minutes or the epochs are over; a run's last step is saved as such, not here."""
        if self.training.finished:
            return False
        by_clock = self.minutes > 0 and time.monotonic() - self._saved_at >= self.minutes * 60
        return by_clock or self._by_epochs(state)

    def _by_epochs(self, state: TrainState) -> bool:
        wanted = self.epochs > 0 and state.epoch_ended and state.epoch >= self.first_epoch
        return wanted and state.epoch % self.epochs == 0

    def run(self, state: TrainState) -> CheckpointSaved | None:
        """Save; a save that fails is told and tried again at the next interval."""
        self._saved_at = time.monotonic()
        try:
            with told_saving(self.bus, state.step):
                return self.saver.save(self.training)
        except CheckpointError as error:
            self.bus.emit(Warned(state.step, f"{error} The training goes on and tries again at the next interval."))
            return None


@contextmanager
def told_saving(bus: EventBus, step: int) -> Iterator[None]:
    """Tell that a checkpoint is being written, for as long as the block takes."""
    bus.emit(SavingChanged(step, True))
    try:
        yield
    finally:
        bus.emit(SavingChanged(step, False))
