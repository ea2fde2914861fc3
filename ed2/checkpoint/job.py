"""When to save: by minutes, by epochs."""

import time
from dataclasses import dataclass, field

from ed2.checkpoint.background import BackgroundSaver
from ed2.training.state import Run, TrainState


@dataclass
class CheckpointJob:
    """Saves every so many minutes and epochs; the checkpoint at the end of the run is not its work.

    Attributes:
        minutes: between two saves by the clock, 0 for never.
        epochs: between two saves by epochs, 0 for never.
        first_epoch: no saves by epochs before so many are done.
    """

    saver: BackgroundSaver
    training: Run
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

    def run(self, state: TrainState) -> None:
        """Save; a save that fails is told and tried again at the next interval."""
        self._saved_at = time.monotonic()
        self.saver.start(self.training)
