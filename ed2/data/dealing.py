"""How the batches of an optimizer step are dealt to several processes, so that few of them wait for others.

Every process computes the same deal. Which images are in a step never depends on it: a batch may be cut, since an
image's draws and its share of the gradient are its own.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from ed2.data.epoch import PlannedBatch

TOLERANCE = 1.15
"""How much longer than on average the busiest process may take before batches are cut. Above the differences between
buckets of one resolution, so that full steps stay as planned: smaller batches use a GPU less well."""


class Dealt(NamedTuple):
    """A batch, or a part of one, and the process that trains it."""

    batch: PlannedBatch
    rank: int


def deal(batches: Sequence[PlannedBatch], size: int, *, one_each: bool = False) -> list[Dealt]:
    """Deal the batches of a step to `size` processes, in their order; those of a short step are cut into parts.

    Args:
        batches: of the step.
        size: the number of processes.
        one_each: whether no process may get more than one; there are at most `size` batches then.
    """
    if size == 1:
        return [Dealt(batch, 0) for batch in batches]
    parts = list(batches)
    best = _shared_out(parts, size)
    while _busiest(best, size) > TOLERANCE * _mean(parts, size):
        if one_each and len(parts) == size:
            break
        largest = max(range(len(parts)), key=lambda place: cost(parts[place]))
        if len(parts[largest].visits) == 1:
            break
        parts[largest : largest + 1] = _halves(parts[largest])
        dealt = _shared_out(parts, size)
        if _busiest(dealt, size) < _busiest(best, size):
            best = dealt
    return best


def cost(batch: PlannedBatch) -> int:
    """How long a batch takes, in pixels: what takes time in it grows with them."""
    return batch.bucket[0] * batch.bucket[1] * len(batch.visits)


def _shared_out(parts: Sequence[PlannedBatch], size: int) -> list[Dealt]:
    """Give each part, the largest first, to the process that has the least to do.

    Source: Graham 1969, "Bounds on multiprocessing timing anomalies", the LPT rule: at most a third above the optimum.
    """
    loads = [(0, rank) for rank in range(size)]
    rank_of = {}
    for place in sorted(range(len(parts)), key=lambda place: -cost(parts[place])):
        load, rank = loads[0]
        rank_of[place] = rank
        heapq.heapreplace(loads, (load + cost(parts[place]), rank))
    return [Dealt(part, rank_of[place]) for place, part in enumerate(parts)]


def _busiest(dealt: Sequence[Dealt], size: int) -> int:
    loads = [0] * size
    for batch, rank in dealt:
        loads[rank] += cost(batch)
    return max(loads)


def _mean(parts: Sequence[PlannedBatch], size: int) -> float:
    return sum(map(cost, parts)) / size


def _halves(batch: PlannedBatch) -> list[PlannedBatch]:
    middle = -(-len(batch.visits) // 2)
    return [PlannedBatch(batch.bucket, part) for part in (batch.visits[:middle], batch.visits[middle:])]
