"""Compares a run's first single file with its checkpoint: opened as a web UI does, it has to predict the same."""

import logging
import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError

from ed2.checkpoint.folder import damaged_name
from ed2.checkpoint.room import MEMORY_MARGIN, free_memory_bytes
from ed2.disk import rename
from ed2.disk_errors import plain_reason
from ed2.errors import ModelError
from ed2.events import CheckpointSaved, EventBus, SingleFileChecked, Warned
from ed2.models.base import ModelSource
from ed2.models.files.header import is_pickle
from ed2.models.files.lora_base import is_lora_checkpoint
from ed2.models.files.self_check import PartDifference, compare_predictions, comparison_bytes, size_difference
from ed2.models.files.source import open_base
from ed2.text import file_size

logger = logging.getLogger(__name__)

NICENESS = 10
"""How much the thread, and those that it computes with, yield to training."""
UNREADABLE = (ModelError, OSError, SafetensorError, ValueError)


@dataclass
class PredictionCheck:
    """Compares one single file of a run with its checkpoint, whose bytes were found to be those in memory.

    It computes on the CPU in a thread of its own, while training continues. A file whose predictions differ is renamed,
    and the next one is compared too.
    """

    _waiting: list[CheckpointSaved] = field(default_factory=list, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _is_over: bool = False

    def start(self, saved: CheckpointSaved, bus: EventBus) -> None:
        """Compare the single file of a checkpoint, if it has one, unless an earlier one is found to be sound."""
        with self._lock:
            if saved.single_file is None or self._is_over:
                return
            self._waiting.append(saved)
            if self._thread is None:
                self._thread = threading.Thread(target=self._compare_waiting, args=(bus,), name="checking")
                self._thread.start()

    def join(self) -> None:
        """Wait until no comparison is in progress."""
        while (thread := self._thread) is not None:
            thread.join(1.0)  # without a limit, Windows would not react to Ctrl-C

    def _compare_waiting(self, bus: EventBus) -> None:
        _yield_to_training()
        while True:
            with self._lock:
                if self._is_over or not self._waiting:
                    self._thread = None
                    return
                saved = self._waiting.pop(0)
            outcome = _outcome_of(saved)
            bus.emit(outcome)
            self._is_over = isinstance(outcome, SingleFileChecked)


def _outcome_of(saved: CheckpointSaved) -> SingleFileChecked | Warned:
    """Compare a single file with its checkpoint: what it opens as, or that it was renamed."""
    single_file = saved.single_file
    assert single_file
    try:
        found = _compare(saved.path, single_file)
    except UNREADABLE as error:  # such as one that has been removed in the meantime
        found = f"prediction not compared: {_reason(error)}"
    except Exception as error:  # in a thread nobody else would see it
        logger.exception("The check of %s failed.", single_file)
        found = f"prediction not compared: {plain_reason(error)}"
    if isinstance(found, str):
        return SingleFileChecked(saved.step, single_file, f"opens as {saved.opens_as}; {found}")
    return Warned(saved.step, _renamed(single_file, saved.path, found))


def _compare(checkpoint: Path, single_file: Path) -> str | PartDifference:
    """What is to be said of a sound file, or the difference of one that is not.

    Raises:
        ModelError, OSError, SafetensorError, ValueError: one of the two cannot be read.
    """
    if is_lora_checkpoint(checkpoint):
        return "prediction not compared: a LoRA predicts nothing without its base"
    if is_pickle(single_file):
        return "prediction not compared: only that of a .safetensors is"
    saved, opened = open_base(checkpoint, {}), open_base(single_file, {})
    if reason := size_difference(saved, opened) or _memory_shortage(opened):
        return f"prediction not compared: {reason}"
    largest = 0.0
    for difference in compare_predictions(saved, opened):
        if not difference.is_equal:
            return difference
        largest = max(largest, difference.relative)
    if largest < 1e-6:
        return "prediction equal"
    return f"prediction equal, rounding aside ({largest:.1%})"


def _memory_shortage(opened: ModelSource) -> str:
    """Why there is not enough memory for the comparison; empty if there is."""
    required, free = MEMORY_MARGIN * comparison_bytes(opened), free_memory_bytes()
    if free > required:
        return ""
    return f"it needs {file_size(round(required))} of free memory, and {file_size(free)} is free"


def _renamed(single_file: Path, checkpoint: Path, difference: PartDifference) -> str:
    """Rename a file that predicts something else, so that nobody uses it; what happened, in sentences."""
    target = damaged_name(single_file)
    what = (
        f"The single file {single_file.name} does not predict what its checkpoint predicts: its {difference.part} is "
        f"off by {difference.relative:.1%}, where rounding explains {difference.tolerance:.1%}."
    )
    try:
        rename(single_file, target)
        done = f"It was renamed to {target.name}."
    except OSError as error:
        done = f"It could not be renamed ({plain_reason(error)}): do not use it."
    why = "The base model may have a configuration of its own, which a single file cannot hold."
    return f"{what} {done} {why} Use the checkpoint {checkpoint.name}, which is complete."


def _reason(error: BaseException) -> str:
    problems = getattr(error, "problems", ())
    return problems[0].what.rstrip(".") if problems else plain_reason(error)


def _yield_to_training() -> None:
    with suppress(AttributeError, OSError):  # Windows has no such call
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
