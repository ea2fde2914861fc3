"""What pages show of a run, frozen: its state and what that allows, figures, curves, samples, log and problems."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from ed2.errors import Problem, RefusedError
from ed2.events import MemoryMeasured, Phase, Sample
from ed2.vram.sampler import MemoryUse

State = Literal["idle", "preparing", "training", "sampling", "paused", "stopping", "done", "stopped", "failed"]
"""A phase as the page's `data-state` names it; `idle` before the first run."""
Command = Literal["start", "pause", "continue", "stop", "stop without saving", "save now", "sample now"]

RUNNING: tuple[State, ...] = ("training", "sampling")
ACTIVE: frozenset[State] = frozenset(("preparing", *RUNNING, "paused", "stopping"))
"""The states in which a run exists."""
AT_REST: frozenset[State] = frozenset(("idle", "done", "stopped", "failed"))
SHOWN_AS: Mapping[Phase, State] = {"caching": "preparing", "validating": "training"}
"""Phases that the page shows as another one, with the details beside it."""
COMMANDS: Mapping[Command, frozenset[State]] = {
    "start": AT_REST,
    "pause": frozenset(("preparing", *RUNNING)),
    "continue": frozenset(("preparing", "paused", *RUNNING)),
    "stop": frozenset(("preparing", "paused", *RUNNING)),
    "stop without saving": ACTIVE,
    "save now": frozenset(("paused", *RUNNING)),
    "sample now": frozenset(("paused", *RUNNING)),
}
"""The states in which each command is legal."""

MAX_BUCKETS = 1000

Section = Literal["status", "loss", "samples", "log", "memory", "problems"]

SECTIONS: Mapping[str, Section] = {
    "curves": "loss",
    "saves": "loss",
    "samples": "samples",
    "log": "log",
    "peaks": "memory",
    "problems": "problems",
}
"""The section of each field that does not belong to "status"."""


def require_legal(command: Command, state: State) -> None:
    """Raise RefusedError where `command` is not legal in `state`."""
    if state in COMMANDS[command]:
        return
    if command == "stop without saving":
        raise RefusedError("There is no run to discard", "", "")
    raise RefusedError(f"Cannot {command} now", f"the trainer is {state}", "")


def next_state(state: State, phase: Phase) -> State | None:
    """The state after a run announced `phase`; None if it must not follow and is ignored.

    A stopping run can only end, whatever it still does before that, and an ended run no longer stops.
    """
    shown: State = SHOWN_AS.get(phase) or phase  # type: ignore[assignment]
    is_late = state in AT_REST and shown == "stopping"
    is_early = state == "stopping" and shown in ACTIVE
    return None if is_late or is_early else shown


class Point(NamedTuple):
    """Neighbouring values as one: the last step, and the mean, lowest and highest value."""

    step: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ThinnedCurve:
    """A curve as it is drawn, oldest point first.

    Attributes:
        values_per_point: how many values a point stands for, except the last one, which may still grow.
    """

    values_per_point: int = 1
    points: tuple[Point, ...] = ()


@dataclass(slots=True)
class _Bucket:
    step: int
    total: float
    count: int
    low: float
    high: float

    def add(self, step: int, value: float) -> None:
        self.step = step
        self.total += value
        self.count += 1
        if value < self.low:
            self.low = value
        elif value > self.high:
            self.high = value

    def take(self, other: "_Bucket") -> None:
        self.step = other.step
        self.total += other.total
        self.count += other.count
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


@dataclass
class Curve:
    """Values by step, in at most 1000 buckets: when they are full, each two neighbours become one.

    What is not finite is left out.
    """

    _buckets: list[_Bucket] = field(default_factory=list)
    _values_per_bucket: int = 1
    _thinned: ThinnedCurve | None = None

    def add(self, step: int, value: float) -> None:
        """Add the next value; steps only grow."""
        if not math.isfinite(value):
            return
        self._thinned = None
        if self._buckets and self._buckets[-1].count < self._values_per_bucket:
            self._buckets[-1].add(step, value)
            return
        if len(self._buckets) == MAX_BUCKETS:
            self._halve()
        self._buckets.append(_Bucket(step, value, 1, value, value))

    def thinned(self) -> ThinnedCurve:
        """The curve as it is now."""
        if self._thinned is None:
            points = tuple(Point(b.step, b.total / b.count, b.low, b.high) for b in self._buckets)
            self._thinned = ThinnedCurve(self._values_per_bucket, points)
        return self._thinned

    def _halve(self) -> None:
        for left, right in zip(self._buckets[::2], self._buckets[1::2], strict=True):
            left.take(right)
        self._buckets = self._buckets[::2]
        self._values_per_bucket *= 2


@dataclass(frozen=True)
class ShownSample:
    """One sample image and the step that it was drawn at."""

    step: int
    sample: Sample


@dataclass(frozen=True)
class RunSnapshot:
    """Everything that a page shows; a section has changed if its number in `revisions` differs.

    Attributes:
        detail: on the state, for people.
        epoch: the one that the last step belongs to, from 1; None before the first step.
        progress: progress within the phase, for people; empty while there is nothing to count.
        asked: the pending request that the run will carry out at its next chance, for people.
        elsewhere: the other program that trains the run; empty where there is none.
        sequence: another number means that curves and samples do not continue what was shown before.
        curves: what was measured, by the name of the curve.
        saves: the steps that checkpoints were saved at.
    """

    revisions: Mapping[Section, int] = field(default_factory=dict)
    sequence: int = 0
    state: State = "idle"
    detail: str = ""
    is_saving: bool = False
    project: str = ""
    run_dir: Path | None = None
    device: str = ""
    step: int = 0
    total: int = 0
    epoch: int | None = None
    max_epochs: int = 0
    progress: str = ""
    asked: str = ""
    elsewhere: str = ""
    images: int = 0
    images_per_second: float | None = None
    seconds_per_step: float | None = None
    loss: float | None = None
    lr: float | None = None
    curves: Mapping[str, ThinnedCurve] = field(default_factory=dict)
    saves: tuple[int, ...] = ()
    samples: tuple[ShownSample, ...] = ()
    log: tuple[str, ...] = ()
    checkpoint: Path | None = None
    single_file: Path | None = None
    memory: MemoryUse | None = None
    peaks: tuple[MemoryMeasured, ...] = ()
    problems: tuple[Problem, ...] = ()
    left_out: int = 0
    changed: int = 0

    @property
    def revision(self) -> int:
        """Increases with every change."""
        return sum(self.revisions.values())

    def allows(self, command: Command) -> bool:
        """Whether a command is legal now."""
        return self.state in COMMANDS[command]

    @property
    def is_active(self) -> bool:
        """Whether a run is in progress."""
        return self.state in ACTIVE

    @property
    def seconds_left(self) -> float | None:
        """Time to the last step at the current speed; None while that is unknown, and after that step."""
        if self.seconds_per_step is None or not self.is_active or self.step >= self.total:
            return None
        return (self.total - self.step) * self.seconds_per_step
