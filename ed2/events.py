"""What a run tells the world: plain, frozen events, and the bus that carries them.

Events hold numbers, text and paths, never tensors, so that an observer may keep, print or store them. The trainer
emits; the console, TensorBoard, `events.jsonl` and the page listen.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ed2.disk import plain_reason
from ed2.errors import LogWriteError

logger = logging.getLogger(__name__)

Phase = Literal["preparing", "training", "sampling", "paused", "stopping", "done", "stopped", "failed"]
"""States of a run, as the page's `data-state` names them."""


@dataclass(frozen=True)
class Event:
    """Something that happened at optimizer step `step`."""

    step: int


@dataclass(frozen=True)
class RunStarted(Event):
    """Training begins, at `step` when a run is continued."""

    project: str
    run_dir: Path
    total_steps: int
    epoch: int
    max_epochs: int
    images: int
    device: str
    config: Mapping[str, object]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhaseChanged(Event):
    """The run is now doing something else; `detail` is for people."""

    phase: Phase
    detail: str = ""


@dataclass(frozen=True)
class StepDone(Event):
    """One optimizer step was attempted, in `epoch`, from 0. Reads nothing from the device."""

    epoch: int
    images: int


@dataclass(frozen=True)
class Progressed(Event):
    """How far a part of a phase is: "validating 12 of 40". For those who watch; no log keeps it."""

    doing: str
    place: int
    total: int


@dataclass(frozen=True)
class MetricsLogged(Event):
    """Numbers for a curve each; keys are the TensorBoard tags of the contract."""

    values: Mapping[str, float]


@dataclass(frozen=True)
class ValidationDone(Event):
    """The losses of a validation; keys are the TensorBoard tags of the contract."""

    values: Mapping[str, float]


@dataclass(frozen=True)
class EpochEnded(Event):
    """A whole epoch is done; `epoch` counts from 0."""

    epoch: int
    loss: float
    minutes: float


@dataclass(frozen=True)
class Sample:
    """One prompt's image: its CFG values side by side."""

    index: int
    path: Path
    prompt: str
    negative_prompt: str
    seed: int
    cfgs: tuple[float, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class SamplesMade(Event):
    """Sample images were written."""

    samples: tuple[Sample, ...]
    seconds: float
    is_whole: bool = True
    """False where a stop has left some out: all are drawn when the run goes on."""


@dataclass(frozen=True)
class SavingChanged(Event):
    """A checkpoint is being written from now on, or no longer."""

    is_saving: bool


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint is complete on the disk; `single_file` is None when none was asked for."""

    epoch: int
    kind: Literal["", "last", "interrupted", "errored"]
    path: Path
    single_file: Path | None
    bytes_written: int
    seconds: float


@dataclass(frozen=True)
class MemoryMeasured(Event):
    """What a run took of its card at its peak, beside what was planned, in GB of 2**30 bytes."""

    what: Literal["training", "sampling"]
    planned_gb: float
    low_gb: float
    high_gb: float
    measured_gb: float


@dataclass(frozen=True)
class Warned(Event):
    """Something a person should know, that does not stop the run."""

    text: str
    ends: str = ""
    """The warning that is over by this one; empty where it tells of something new."""


@dataclass(frozen=True)
class RunEnded(Event):
    """The last event of a run."""

    phase: Literal["done", "stopped", "failed"]
    reason: str
    seconds: float
    checkpoint: Path | None = None
    single_file: Path | None = None
    signal_number: int = 0
    """The signal that stopped it, 0 for none."""
    left_out: int = 0
    """Images that could no longer be read while it went on."""
    changed: int = 0
    """Images whose files were changed while it went on."""


TOLD_AGAIN_SECONDS = 60.0
"""How long a failing observer is passed over in silence."""


@dataclass
class _Failing:
    """An observer that fails: at which kinds of events, and when that was told last."""

    kinds: set[type[Event]] = field(default_factory=set)
    told_at: float = -math.inf
    reason: str = ""
    warned: str = ""


@dataclass
class EventBus:
    """Hands each event to every observer, in the order in which they subscribed.

    Several threads may emit: observers are called one at a time.

    Attributes:
        clock: seconds; for tests.
    """

    observers: list[Callable[[Event], None]] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _failing: dict[int, _Failing] = field(default_factory=dict, repr=False)

    def subscribe(self, observer: Callable[[Event], None]) -> None:
        """Call `observer` with every event from now on."""
        with self._lock:
            self.observers.append(observer)

    def unsubscribe(self, observer: Callable[[Event], None]) -> None:
        """Call `observer` no more."""
        with self._lock:
            self.observers.remove(observer)
            self._failing.pop(id(observer), None)

    def emit(self, event: Event | None) -> None:
        """Tell every observer; None is passed over.

        One that fails stops no run. It is reported at the first time, and again after it has worked or after a minute;
        what it says for people, the others are told as a warning.
        """
        if event is None:
            return
        with self._lock:
            for observer in tuple(self.observers):
                warning = self._tell(observer, event)
                self.emit(warning)

    def _tell(self, observer: Callable[[Event], None], event: Event) -> Warned | None:
        """Tell one observer; gives what its failing has to say to people, at the first time, and that it is over."""
        failing, kind = self._failing.get(id(observer)), type(event)
        try:
            observer(event)
        except Exception as error:
            is_new = failing is None
            failing = self._failing.setdefault(id(observer), _Failing())
            failing.kinds.add(kind)
            if is_new and isinstance(error, LogWriteError):
                failing.told_at, failing.reason, failing.warned = self.clock(), error.what, str(error)
                return Warned(event.step, failing.warned)
            if self.clock() - failing.told_at >= TOLD_AGAIN_SECONDS:
                failing.told_at = self.clock()
                _log(error, kind.__name__)
        else:
            if failing and kind in failing.kinds:  # not at a kind that it has passed over all the time
                del self._failing[id(observer)]
                if failing.reason:
                    return Warned(event.step, f"Resolved: {failing.reason}.", ends=failing.warned)
        return None


def _log(error: Exception, kind: str) -> None:
    if isinstance(error, LogWriteError):
        logger.warning("%s", error)
    elif isinstance(error, OSError):  # of a drive: where in the program it was met is of no use
        logger.warning("An observer failed on %s: %s. The run goes on.", kind, plain_reason(error))
    else:
        logger.error("An observer failed on %s; the run goes on.", kind, exc_info=error)
