"""Saving while training continues: the loop waits only for a copy in memory, and a thread writes it to disk."""

import logging
import threading
import time
from dataclasses import dataclass, field, replace

from ed2.checkpoint.prediction_check import PredictionCheck
from ed2.checkpoint.room import has_memory_for
from ed2.checkpoint.saver import Kind, Saver
from ed2.checkpoint.snapshot import HostBuffers, Snapshot, bytes_to_copy
from ed2.errors import CheckpointError
from ed2.events import CheckpointSaved, EventBus, SavingChanged, Warned
from ed2.training.state import CHECKPOINT, Job, Run, TrainState

logger = logging.getLogger(__name__)

RETRY_LATER = "Training continues and will try again at the next interval."


@dataclass
class BackgroundSaver:
    """Writes the checkpoints of a run, one at a time.

    The thread emits its own events: a checkpoint once it is on the disk, a failure as a warning. It is not a daemon
    thread, so that the program does not exit before it has finished.
    """

    saver: Saver
    _thread: threading.Thread | None = field(default=None, repr=False)
    _buffers: HostBuffers = field(default_factory=HostBuffers, repr=False)
    _warned: str = ""
    _check: PredictionCheck = field(default_factory=PredictionCheck, repr=False)

    @property
    def bus(self) -> EventBus:
        """The bus of the run."""
        return self.saver.bus

    def start(self, run: Run, kind: Kind = "") -> None:
        """Save `run` as it is now. Waits for the previous save, and for this one too where memory is short."""
        self.join()
        step, name = run.state.step, self.saver.name(run.state, kind)
        self.bus.emit(SavingChanged(step, True))
        try:
            self.saver.require_space(run, name)
            copy = self.copy(run)
            if copy is None:
                self._write(self.saver.snapshot(run), name, kind)
                return
            self._thread = threading.Thread(target=self._write, args=(copy, name, kind), name="saving")
            self._thread.start()
        except (CheckpointError, RuntimeError, MemoryError) as error:  # also out of memory without a copy
            self._give_up(step, error)

    def finish(self, run: Run, kind: Kind) -> CheckpointSaved:
        """Write the last checkpoint of a run and wait for it.

        Raises:
            CheckpointError: it could not be written.
        """
        self.join()
        self.bus.emit(SavingChanged(run.state.step, True))
        try:
            saved = self.saver.save(run, kind)
            self._announce(saved)
            return saved
        finally:
            self.bus.emit(SavingChanged(run.state.step, False))

    def join(self) -> None:
        """Wait until no save is in progress."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(1.0)  # without a limit, Windows would not react to Ctrl-C
        self._thread = None

    def join_all(self) -> None:
        """Wait until no save is in progress, and no single file is being checked; free what saves have used."""
        self.join()
        self._check.join()
        self._buffers.clear()

    def disable_single_files(self) -> None:
        """Write no single files from now on."""
        self.saver = replace(self.saver, exporter=None)

    def copy(self, run: Run) -> Snapshot | None:
        """A copy of all that training changes; None if there is not enough memory for one."""
        self._buffers.reuse()  # no save is in progress
        if has_memory_for(self._buffers.missing(bytes_to_copy(run), run.objective.device)):
            try:
                return self.saver.snapshot(run, self._buffers)
            except (MemoryError, RuntimeError):  # PyTorch raises the latter for main memory
                what = "Not enough memory to copy the weights; training waits until the checkpoint is written."
                logger.exception(what)
        self._buffers.clear()  # only here: the error holds on to the copies
        return None

    def _write(self, snapshot: Snapshot, name: str, kind: Kind) -> None:
        try:
            self._announce(self.saver.write(snapshot, name, kind))
            self.bus.emit(SavingChanged(snapshot.step, False))
        except CheckpointError as error:
            self._give_up(snapshot.step, error)
        except Exception as error:  # in a thread nobody else would see it
            logger.exception("A save failed.")
            self._give_up(snapshot.step, error)

    def _announce(self, saved: CheckpointSaved) -> None:
        """Report a checkpoint, and that saving works again if the previous save failed."""
        self.bus.emit(saved)
        self._check.start(saved, self.bus)
        if self._warned:
            text = f"Resolved: checkpoints can be written again; {saved.path.name} is saved."
            self.bus.emit(Warned(saved.step, text, ends=self._warned, is_resolved=True))
            self._warned = ""

    def _give_up(self, step: int, error: Exception) -> None:
        text = str(error) if isinstance(error, CheckpointError) else f"Saving failed: {type(error).__name__}: {error}."
        earlier, self._warned = self._warned, f"{text} {RETRY_LATER}"
        self.bus.emit(Warned(step, self._warned, ends=earlier))
        self.bus.emit(SavingChanged(step, False))


@dataclass
class CheckpointJob(Job):
    """Saves at intervals of time and of epochs. It does not write the checkpoint at the end of the run.

    Attributes:
        minutes: between saves by time, 0 for never.
        epochs: between saves by epochs, 0 for never.
        first_epoch: saves by epochs start when this many are done.
        keeps_best: whether a validation that improves saves a checkpoint too, of which the newest is kept, at most as
            often as by time.
    """

    saver: BackgroundSaver
    run: Run
    minutes: float
    epochs: int
    first_epoch: int = 0
    keeps_best: bool = False
    _saved_at: float = field(default_factory=time.monotonic)
    _best_at: float = field(default_factory=time.monotonic)
    name = CHECKPOINT

    def due(self, state: TrainState) -> bool:
        """Whether an interval has passed; the last step of a run is never due."""
        if self.run.finished:
            return False
        by_clock = self.minutes > 0 and time.monotonic() - self._saved_at >= self.minutes * 60
        return by_clock or self._is_epoch_due(state) or self._is_best_due(state)

    def _is_best_due(self, state: TrainState) -> bool:
        """Whether the validation of this step is the best so far, and the last such checkpoint long enough ago."""
        is_best = self.keeps_best and state.best_step == state.step
        return is_best and time.monotonic() - self._best_at >= self.minutes * 60

    def _is_epoch_due(self, state: TrainState) -> bool:
        if not self.epochs or not state.epoch_ended or state.epoch < self.first_epoch:
            return False
        return state.epoch % self.epochs == 0

    def perform(self, state: TrainState) -> None:
        """Save; a failure is a warning, and the next interval tries again.

        The best checkpoint counts as the one that is due by time too; that of an epoch is saved in addition.
        """
        is_best = self._is_best_due(state)
        self._saved_at = time.monotonic()
        if is_best:
            self._best_at = self._saved_at
            self.saver.start(self.run, "best")
        if not is_best or self._is_epoch_due(state):
            self.saver.start(self.run)
