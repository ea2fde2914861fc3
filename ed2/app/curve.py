"""A curve of any length in a bounded number of points."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_BUCKETS = 1024
SMOOTHING = 0.1
"""Weight of the newest value in the smoothed line."""


class Point(NamedTuple):
    """Neighbouring values as one: the last step, and the mean, lowest and highest value."""

    step: int
    mean: float
    low: float
    high: float


@dataclass
class _Bucket:
    step: int
    total: float
    count: int
    low: float
    high: float

    def take(self, other: "_Bucket") -> None:
        self.step = other.step
        self.total += other.total
        self.count += other.count
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


@dataclass
class Curve:
    """Values by step, in at most 1024 buckets: when they are full, each two neighbours become one.

    What is not finite is left out.
    """

    _buckets: list[_Bucket] = field(default_factory=list)
    _values_per_bucket: int = 1

    def add(self, step: int, value: float) -> None:
        """Add the next value; steps only grow."""
        if not math.isfinite(value):
            return
        new = _Bucket(step, value, 1, value, value)
        if self._buckets and self._buckets[-1].count < self._values_per_bucket:
            self._buckets[-1].take(new)
            return
        if len(self._buckets) == MAX_BUCKETS:
            self._halve()
        self._buckets.append(new)

    def points(self) -> tuple[Point, ...]:
        """The curve, oldest first."""
        return tuple(Point(b.step, b.total / b.count, b.low, b.high) for b in self._buckets)

    def _halve(self) -> None:
        for left, right in zip(self._buckets[::2], self._buckets[1::2], strict=True):
            left.take(right)
        self._buckets = self._buckets[::2]
        self._values_per_bucket *= 2


def smoothed(points: tuple[Point, ...]) -> list[float]:
    """The moving average of a curve's means, one number a point; at its beginning the average of all so far."""
    line, mean = [], 0.0
    for number, point in enumerate(points, 1):
        weight = max(SMOOTHING, 1 / number)
        mean = (1 - weight) * mean + weight * point.mean
        line.append(mean)
    return line
