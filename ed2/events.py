"""The events of a run, and the bus that delivers them.

Events hold numbers, text and paths, never tensors, so that observers can keep, print or store them. The trainer emits
them; the console, TensorBoard, `events.jsonl` and the page observe.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ed2.disk_errors import plain_reason
from ed2.errors import LogWriteError

logger = logging.getLogger(__name__)

Phase = Literal[
    "preparing", "caching", "training", "validating", "sampling", "paused", "stopping", "done", "stopped", "failed"
]
"""States of a run; `ed2.app.snapshot` says which the page's `data-state` shows as another."""


@dataclass(frozen=True)
class Event:
    """Something that happened at optimizer step `step`."""

    step: int


@dataclass(frozen=True)
class CheckpointChosen(Event):
    """A run is about to resume from the checkpoint of step `step`, of the run in `run_dir`. No log keeps it."""

    run_dir: Path


@dataclass(frozen=True)
class RunStarted(Event):
    """Training starts, or continues after `step`."""

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
    """The run has entered another phase; `detail` is for the user."""

    phase: Phase
    detail: str = ""


@dataclass(frozen=True)
class StepDone(Event):
    """One optimizer step was attempted, in `epoch`, from 0. Reads nothing from the device."""

    epoch: int
    images: int


@dataclass(frozen=True)
class Progressed(Event):
    """Progress within a phase, such as "validating 12 of 40". Shown live and not logged."""

    doing: str
    place: int
    total: int
    left: str = ""
    """The time left, as part of a sentence; empty if it is not known."""


@dataclass(frozen=True)
class MetricsLogged(Event):
    """Metrics of a step; keys are names of curves, see `ed2.curve_names`."""

    values: Mapping[str, float]


@dataclass(frozen=True)
class ValidationDone(Event):
    """The losses of a validation; keys are names of curves."""

    values: Mapping[str, float]


@dataclass(frozen=True)
class ImagesMeasured(Event):
    """The loss of each training image at fixed noise, by the image's key. `events.jsonl` leaves it out."""

    losses: Mapping[str, float]


@dataclass(frozen=True)
class EpochEnded(Event):
    """An epoch is done; `epoch` counts from 0."""

    epoch: int
    loss: float
    minutes: float


@dataclass(frozen=True)
class Sample:
    """One prompt's images, one for each of its CFG values.

    Attributes:
        path: the image at the middle CFG value.
        paths: the images in the order of `cfgs`, as far as they are drawn.
        trained: the key of the training image whose caption the prompt is; empty if it is of none.
    """

    index: int
    path: Path
    prompt: str
    negative_prompt: str
    seed: int
    cfgs: tuple[float, ...]
    size: tuple[int, int]
    paths: tuple[Path, ...] = ()
    trained: str = ""


@dataclass(frozen=True)
class SampleDrawn(Event):
    """One more image of a sample was written. Shown live and not logged: `SamplesMade` lists them all."""

    sample: Sample


@dataclass(frozen=True)
class SamplesMade(Event):
    """Sample images were written."""

    samples: tuple[Sample, ...]
    seconds: float
    is_whole: bool = True
    """False if a stop left some out; all of them are drawn again when the run is resumed."""


@dataclass(frozen=True)
class SavingChanged(Event):
    """Writing a checkpoint has started or finished."""

    is_saving: bool


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint is complete on the disk; `single_file` is None if there is none."""

    epoch: int
    kind: Literal["", "best", "last", "interrupted", "errored"]
    path: Path
    single_file: Path | None
    bytes_written: int
    seconds: float
    opens_as: str = ""
    """What the single file is for a program that opens it; empty if there is none, or an older one."""


@dataclass(frozen=True)
class SingleFileChecked(Event):
    """The first single file of a run was opened; `text` says as what, and how its prediction compares."""

    path: Path
    text: str


@dataclass(frozen=True)
class MemoryMeasured(Event):
    """Peak GPU memory, planned and measured, in GB of 2**30 bytes."""

    what: Literal["training", "sampling"]
    planned_gb: float
    low_gb: float
    high_gb: float
    measured_gb: float


@dataclass(frozen=True)
class Warned(Event):
    """Something the user should know that does not stop the run."""

    text: str
    ends: str = ""
    """The text of the earlier warning whose place this one takes; empty for a new problem."""
    is_resolved: bool = False
    """Whether it only says that the earlier problem is over, so that nothing is left to do."""


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
    """Images that could not be read during the run."""
    changed: int = 0
    """Images whose files changed during the run."""


REPEAT_SECONDS = 60.0
"""How long further errors of a failing observer are not logged."""


@dataclass
class _Failing:
    """A failing observer: at which kinds of events, and when that was last logged."""

    kinds: set[type[Event]] = field(default_factory=set)
    logged_at: float = -math.inf
    reason: str = ""
    warning: str = ""


@dataclass
class EventBus:
    """Delivers each event to every observer, in the order in which they subscribed.

    Several threads may emit; observers are called one at a time.

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
        """Stop calling `observer`."""
        with self._lock:
            self.observers.remove(observer)
            self._failing.pop(id(observer), None)

    def emit(self, event: Event | None) -> None:
        """Deliver an event to every observer; None is ignored.

        An observer that fails does not stop the run. Its error is logged, but at most once a minute until it works
        again. A LogWriteError also becomes a warning to all observers.
        """
        if event is None:
            return
        with self._lock:
            for observer in tuple(self.observers):
                warning = self._deliver(observer, event)
                self.emit(warning)

    def _deliver(self, observer: Callable[[Event], None], event: Event) -> Warned | None:
        """Call one observer; returns a warning that it has started to fail, or that it works again."""
        failing, kind = self._failing.get(id(observer)), type(event)
        try:
            observer(event)
        except Exception as error:
            is_new = failing is None
            failing = self._failing.setdefault(id(observer), _Failing())
            failing.kinds.add(kind)
            if is_new and isinstance(error, LogWriteError):
                failing.logged_at, failing.reason, failing.warning = self.clock(), error.what, str(error)
                return Warned(event.step, failing.warning)
            if self.clock() - failing.logged_at >= REPEAT_SECONDS:
                failing.logged_at = self.clock()
                _log(error, kind.__name__)
        else:
            if failing and kind in failing.kinds:  # not for kinds of events that it ignores
                del self._failing[id(observer)]
                if failing.reason:
                    return Warned(event.step, f"Resolved: {failing.reason}.", ends=failing.warning, is_resolved=True)
        return None


def _log(error: Exception, kind: str) -> None:
    if isinstance(error, LogWriteError):
        logger.warning("%s", error)
    elif isinstance(error, OSError):  # a drive error: a traceback would not help
        logger.warning("An observer failed on %s: %s. The run continues.", kind, plain_reason(error))
    else:
        logger.error("An observer failed on %s; the run continues.", kind, exc_info=error)
