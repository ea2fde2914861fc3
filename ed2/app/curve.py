"""A curve of any length in a bounded number of points."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_BUCKETS = 1000


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
