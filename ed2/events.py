"""What a run tells the world: plain, frozen events, and the bus that carries them.

Events hold numbers, text and paths, never tensors, so that an observer may keep, print or store them. The trainer
emits; the console, TensorBoard, `events.jsonl` and the page listen.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
    """One optimizer step was attempted. Costs no read from the device."""

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
    """One prompt's picture: its CFG values side by side."""

    index: int
    path: Path
    prompt: str
    negative_prompt: str
    seed: int
    cfgs: tuple[float, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class SamplesMade(Event):
    """Sample pictures were written."""

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
    """Pictures that could no longer be read while it went on."""
    changed: int = 0
    """Pictures whose files were changed while it went on."""


@dataclass
class EventBus:
    """Hands each event to every observer, in the order in which they subscribed.

    Several threads may emit: observers are called one at a time.
    """

    observers: list[Callable[[Event], None]] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _failing: set[int] = field(default_factory=set, repr=False)

    def subscribe(self, observer: Callable[[Event], None]) -> None:
        """Call `observer` with every event from now on."""
        with self._lock:
            self.observers.append(observer)

    def unsubscribe(self, observer: Callable[[Event], None]) -> None:
        """Call `observer` no more."""
        with self._lock:
            self.observers.remove(observer)

    def emit(self, event: Event | None) -> None:
        """Tell every observer; None is passed over. One that fails is reported, once in a row, and stops no run."""
        if event is None:
            return
        with self._lock:
            for observer in tuple(self.observers):
                self._tell(observer, event)

    def _tell(self, observer: Callable[[Event], None], event: Event) -> None:
        try:
            observer(event)
        except Exception:
            if id(observer) not in self._failing:  # a full disk fails at every event until there is room again
                logger.exception("An observer failed on %s; the run goes on.", type(event).__name__)
            self._failing.add(id(observer))
        else:
            self._failing.discard(id(observer))
