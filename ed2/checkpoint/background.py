"""Saving while the training goes on: the loop waits for a copy in memory only, and a thread writes it."""

import logging
import threading
from dataclasses import dataclass, field, replace

from ed2.checkpoint.room import has_memory_for
from ed2.checkpoint.saver import Kind, Saver
from ed2.checkpoint.snapshot import Snapshot, bytes_to_copy
from ed2.errors import CheckpointError
from ed2.events import CheckpointSaved, EventBus, SavingChanged, Warned
from ed2.training.state import Run

logger = logging.getLogger(__name__)

TRIES_AGAIN = "The training goes on and tries again at the next interval."


@dataclass
class BackgroundSaver:
    """Makes the checkpoints of a run, one at a time.

    What the thread does is told from the thread, when it has happened: the checkpoint when it is on the disk, a failure
    as a warning. The thread is no daemon, so that the program's end waits for it.
    """

    saver: Saver
    bus: EventBus
    _thread: threading.Thread | None = field(default=None, repr=False)
    _warned: str = ""

    def start(self, run: Run) -> None:
        """Save `run` as it is now. Waits for the save before this one, and for this one where memory is short."""
        self.join()
        step, name = run.state.step, self.saver.name(run.state, "")
        self.bus.emit(SavingChanged(step, True))
        try:
            self.saver.require_space(run, name)
            copy = self._copy(run)
            if copy is None:
                self._write(self.saver.snapshot(run, copied=False), name)
                return
            self._thread = threading.Thread(target=self._write, args=(copy, name), name="saving")
            self._thread.start()
        except (CheckpointError, RuntimeError, MemoryError) as error:  # also: no memory even for a save without a copy
            self._give_up(step, error)

    def finish(self, run: Run, kind: Kind) -> CheckpointSaved:
        """Make the last checkpoint of a run and wait for it; there is nothing that could go on meanwhile.

        Raises:
            CheckpointError: it could not be written.
        """
        self.join()
        self.bus.emit(SavingChanged(run.state.step, True))
        try:
            saved = self.saver.save(run, kind)
            self._tell(saved)
            return saved
        finally:
            self.bus.emit(SavingChanged(run.state.step, False))

    def join(self) -> None:
        """Wait until no save is going on."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(1.0)  # on Windows Ctrl-C is not heard while a thread is waited for without an end
        self._thread = None

    def leave_out_single_files(self) -> None:
        """Write no single files from now on."""
        self.saver = replace(self.saver, exporter=None)

    def _copy(self, run: Run) -> Snapshot | None:
        """A copy of all that training changes; None where the memory does not suffice for one."""
        if not has_memory_for(bytes_to_copy(run)):
            return None
        try:
            return self.saver.snapshot(run, copied=True)
        except (MemoryError, RuntimeError):  # PyTorch says the latter of the computer's memory
            logger.exception("The copy for a checkpoint failed; it is written without one.")
            return None

    def _write(self, snapshot: Snapshot, name: str) -> None:
        try:
            self._tell(self.saver.write(snapshot, name, ""))
            self.bus.emit(SavingChanged(snapshot.step, False))
        except CheckpointError as error:
            self._give_up(snapshot.step, error)
        except Exception as error:  # of a thread nobody else would hear of it
            logger.exception("A save failed.")
            self._give_up(snapshot.step, error)

    def _tell(self, saved: CheckpointSaved) -> None:
        """Tell of a checkpoint, and that it is over where one before it could not be written."""
        self.bus.emit(saved)
        if self._warned:
            text = f"That is over: a checkpoint could not be written, and {saved.path.name} now is."
            self.bus.emit(Warned(saved.step, text, ends=self._warned))
            self._warned = ""

    def _give_up(self, step: int, error: Exception) -> None:
        text = str(error) if isinstance(error, CheckpointError) else f"Saving failed: {type(error).__name__}: {error}."
        before, self._warned = self._warned, f"{text} {TRIES_AGAIN}"
        self.bus.emit(Warned(step, self._warned, ends=before))
        self.bus.emit(SavingChanged(step, False))
