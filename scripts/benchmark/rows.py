"""The rows of the table, and how CPU time is taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

IDLE_SECONDS = 0.05
"""How long threads must have computed nothing to count as idle."""


@dataclass(frozen=True)
class Size:
    """How much is measured: as in the table, or a little of everything."""

    rounds: int = 3
    steps: int = 10
    resolution: int = 256
    training_images: int = 40
    scanned_images: int = 20_000
    started_images: int = 1_000
    """Photographs that a run starts with."""
    planned_images: int = 100_000
    photographs: int = 8
    width: int = 64
    """Channels of the first block of the UNet that is trained."""
    points: int = 100_000
    samples: int = 2000
    open_seconds: int = 30
    """How long a page is watched."""
    saved_width: int = 448
    """The same of the UNet that is saved; 448 makes about 200 million weights."""


SHORT = Size(
    rounds=1,
    steps=1,
    resolution=64,
    training_images=4,
    scanned_images=20,
    started_images=2,
    planned_images=20,
    photographs=1,
    points=20,
    samples=8,
    open_seconds=1,
    width=32,
    saved_width=32,
)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        ours: a median, in `unit`.
        limit: what it is compared with, in the same unit; None for nothing.
        goal: for `value`.
        rounds: what each round gave, of ours.
        limit_rounds: the same for the limit.
        how: "ratio" or "difference" to the limit, or "itself".
        more_is_better: whether the goal is a least value.
    """

    what: str
    unit: str
    ours: float
    limit: float | None = None
    goal: float | None = None
    rounds: list[float] = field(default_factory=list)
    limit_rounds: list[float] = field(default_factory=list)
    how: str = "ratio"
    more_is_better: bool = False

    @classmethod
    def of(cls, what: str, unit: str, rounds: list[float], limit: list[float] | None = None, **options: Any) -> Row:
        """A row of the medians of some rounds."""
        options.setdefault("how", "ratio" if limit else "itself")
        return cls(
            what,
            unit,
            median(rounds),
            median(limit) if limit else None,
            rounds=rounds,
            limit_rounds=limit or [],
            **options,
        )

    @property
    def value(self) -> float:
        """What the goal is about."""
        if self.limit is None or self.how == "itself":
            return self.ours
        return self.ours - self.limit if self.how == "difference" else self.ours / self.limit

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.more_is_better else self.value <= self.goal

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"value": self.value, "is_met": self.is_met}

    def as_line(self) -> str:
        """A line of a markdown table."""
        limit = "" if self.limit is None else f"{self.limit:.3g}"
        goal = "" if self.goal is None else f"{'at least' if self.more_is_better else 'at most'} {self.goal:g}"
        verdict = {None: "", True: "met", False: "missed"}[self.is_met]
        spread = f"{min(self.rounds):.3g} to {max(self.rounds):.3g}" if len(self.rounds) > 1 else ""
        cells = [self.what, self.unit, f"{self.ours:.3g}", spread, limit, f"{self.value:.3g}", goal, verdict]
        return f"| {' | '.join(cells)} |"


HEADING = (
    "| what | unit | ours | spread | compared with | ratio or difference | goal | |\n|---|---|---|---|---|---|---|---|"
)


def cpu_seconds(work: Callable[[], object]) -> float:
    """The CPU seconds of all threads of this process for a call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def wait_until_idle() -> None:
    """Return once no thread of this process computes, so that what was begun before a measurement is over."""
    before = time.process_time()
    while True:
        time.sleep(IDLE_SECONDS)
        now = time.process_time()
        if now - before < IDLE_SECONDS / 20:
            return
        before = now
