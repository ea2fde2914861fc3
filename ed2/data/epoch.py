"""Which images an epoch uses, in which batches and in which order: a pure function of the seed and the epoch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from ed2.data.buckets import Size
from ed2.data.example import Example
from ed2.draws import rng
from ed2.garbage import without_collection

_T = TypeVar("_T")


class Visit(NamedTuple):
    """One use of an image in an epoch."""

    example: int
    """Index into the list of examples."""
    repeat: int
    """Counts the visits of this image in this epoch, from 0."""


class PlannedBatch(NamedTuple):
    """Images of one size that are trained together; the last batch of a bucket may be short."""

    bucket: Size
    visits: tuple[Visit, ...]


class _Span(NamedTuple):
    """A batch as a range of the sorted visits."""

    bucket: Size
    first: int
    last: int

    @property
    def pixels(self) -> int:
        return self.bucket[0] * self.bucket[1] * (self.last - self.first)


class EpochPlan(Sequence[tuple[PlannedBatch, ...]]):
    """For each optimizer step its batches, which are made when they are taken: most of a plan's objects never are."""

    def __init__(self, visits: NDArray[np.int64], spans: Sequence[_Span], steps: Sequence[Sequence[int]]) -> None:
        """Keep the visits as rows of (example, repeat), the batches as ranges of them, and the batches of each step."""
        self._visits, self._spans, self._steps = visits, spans, steps

    def __len__(self) -> int:
        return len(self._steps)

    @overload
    def __getitem__(self, place: int) -> tuple[PlannedBatch, ...]: ...
    @overload
    def __getitem__(self, place: slice) -> "EpochPlan": ...
    def __getitem__(self, place: int | slice) -> "tuple[PlannedBatch, ...] | EpochPlan":
        if isinstance(place, slice):
            return EpochPlan(self._visits, self._spans, self._steps[place])
        return tuple(self._batch(self._spans[index]) for index in self._steps[place])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EpochPlan) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def _batch(self, span: _Span) -> PlannedBatch:
        return PlannedBatch(span.bucket, tuple(Visit(*row) for row in self._visits[span.first : span.last].tolist()))


class BucketUse(NamedTuple):
    """How an epoch uses a bucket."""

    visits: int = 0
    batches: int = 0
    short: int = 0
    """Visits in batches that are not full."""


class EpochPlanner:
    """Plans any epoch of a run; what all epochs share is computed once."""

    def __init__(self, examples: Sequence[Example], *, seed: int, batch_size: int, grad_accum: int) -> None:
        """Group the images by bucket and batch id.

        Args:
            examples: the images; a plan depends on their order.
            seed: the run's seed.
            batch_size: most images in a batch.
            grad_accum: most batches in an optimizer step.
        """
        self.batch_size = batch_size
        self._seed, self._grad_accum = seed, grad_accum
        self._visit_counts = VisitCounts(examples, seed)
        self._groups = sorted({(example.batch_id, example.bucket) for example in examples})
        index_of = {group: index for index, group in enumerate(self._groups)}
        self._group_of = np.array([index_of[example.batch_id, example.bucket] for example in examples], dtype=np.int64)

    @property
    def is_same_every_epoch(self) -> bool:
        """Whether every epoch has the same number of steps."""
        return self._visit_counts.is_same_every_epoch

    @without_collection()
    def plan(self, epoch: int) -> EpochPlan:
        """Split an epoch into batches of one bucket each, and the batches into optimizer steps.

        Every image is used exactly as often as its multiplier says. Images are shuffled within their bucket, batches
        across all buckets. Images with a batch id get batches of their own, and the batches of one id share as few
        optimizer steps as possible. No image is repeated to fill a batch, and none is left out. Where a step has
        several batches, those of two steps are parted by size: processes that share a step wait for its largest batch.
        """
        visits, borders = self._shuffled_groups(epoch)
        spans: list[_Span] = []
        ids: list[str] = []
        for (batch_id, bucket), (first, last) in zip(self._groups, pairwise(borders), strict=True):
            starts = range(first, last, self.batch_size)
            spans += [_Span(bucket, start, min(start + self.batch_size, last)) for start in starts]
            ids += [batch_id] * len(starts)
        order = rng(self._seed, "batch order", epoch).permutation(len(spans)).tolist()
        steps = _group_into_steps(order, ids, [span.pixels for span in spans], self._grad_accum)
        if any(ids):  # the steps with a batch id come first: mix them with the others
            mixed = rng(self._seed, "group order", epoch).permutation(len(steps)).tolist()
            steps = [steps[index] for index in mixed]
        return EpochPlan(visits, spans, steps)

    def steps(self, epoch: int) -> int:
        """Return the number of optimizer steps in an epoch without planning it."""
        batches = Counter[str]()
        for (batch_id, _), count in zip(self._groups, self.counts(epoch), strict=True):
            batches[batch_id] += -(-count // self.batch_size)
        return _count_steps(batches, self._grad_accum)

    def buckets(self, epoch: int) -> dict[Size, BucketUse]:
        """Return how an epoch uses each bucket."""
        found: dict[Size, BucketUse] = {}
        for (_, bucket), count in zip(self._groups, self.counts(epoch), strict=True):
            before = found.get(bucket, BucketUse())
            found[bucket] = BucketUse(
                before.visits + count,
                before.batches + -(-count // self.batch_size),
                before.short + count % self.batch_size,
            )
        return found

    def counts(self, epoch: int) -> list[int]:
        """Return the visits in an epoch for each combination of bucket and batch id."""
        # Weights are floats, which are exact for whole numbers up to 2 ** 53.
        counts = np.bincount(self._group_of, weights=self._visit_counts.in_epoch(epoch), minlength=len(self._groups))
        return [int(count) for count in counts.tolist()]

    def _shuffled_groups(self, epoch: int) -> tuple[NDArray[np.int64], list[int]]:
        """Return rows of (example, repeat), those of each group together, and where each group begins and ends."""
        visits = _shuffled_visits(self._visit_counts.in_epoch(epoch), self._seed, epoch)
        # A stable sort keeps the shuffled order within each group.
        sorted_visits = visits[np.argsort(self._group_of[visits[:, 0]], kind="stable")]
        groups = self._group_of[sorted_visits[:, 0]]
        return sorted_visits, np.searchsorted(groups, np.arange(len(self._groups) + 1)).tolist()


def _shuffled_visits(visit_counts: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return rows of (example, repeat) in random order."""
    examples = np.repeat(np.arange(len(visit_counts)), visit_counts)
    first_visit = np.repeat(np.cumsum(visit_counts) - visit_counts, visit_counts)
    repeats = np.arange(len(examples)) - first_visit
    # The name is part of the draw: another one would reorder every run.
    shuffled = rng(seed, "picture order", epoch).permutation(len(examples))
    return np.stack([examples, repeats], axis=1)[shuffled]


class VisitCounts:
    """How often each image is used in each epoch: exact over epochs and across the images of a folder.

    An image whose multiplier has the fraction f gets an extra visit in every epoch in which f (epoch + 1) + phase
    passes a whole number. So over any n epochs its extra visits number f n, rounded up or down. The phases of the n
    images of one folder with one fraction lie 1 / n apart, in random order and from a random start: no image is
    favoured, and an epoch adds visits for f n of them, rounded up or down.
    """

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        multipliers = np.array([example.multiply for example in examples], dtype=np.float64)
        self._whole = np.floor(multipliers).astype(np.int64)
        fractions = multipliers - self._whole
        self._fractional = np.flatnonzero(fractions)
        self._fractions = fractions[self._fractional]
        folders = [_folder(examples[index]) for index in self._fractional.tolist()]
        self._phases = _phases(folders, self._fractions, seed)

    @property
    def is_same_every_epoch(self) -> bool:
        """Whether all multipliers are whole numbers."""
        return not len(self._fractional)

    def in_epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the number of visits of each image in one epoch."""
        counts = self._whole.copy()
        before = np.floor(self._fractions * epoch + self._phases)
        after = np.floor(self._fractions * (epoch + 1) + self._phases)
        counts[self._fractional] += (after - before).astype(np.int64)
        return counts


def _folder(example: Example) -> str:
    return f"{example.root}/{example.name.rpartition('/')[0]}"


def _phases(folders: Sequence[str], fractions: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return a number from 0 to 1 for each image, evenly spaced over the images of one folder and fraction."""
    indices: dict[tuple[str, float], int] = {}
    keys = zip(folders, fractions.tolist(), strict=True)
    group_of = np.array([indices.setdefault(key, len(indices)) for key in keys], dtype=np.int64)
    generator = rng(seed, "multiply")
    order = np.lexsort((generator.random(len(group_of)), group_of))
    sizes = np.bincount(group_of, minlength=len(indices))
    first = np.cumsum(sizes) - sizes
    ranks = np.empty(len(group_of), dtype=np.int64)
    ranks[order] = np.arange(len(group_of)) - first[group_of[order]]
    phases: NDArray[np.float64] = (ranks + generator.random(len(indices))[group_of]) / sizes[group_of]
    return phases


@dataclass(slots=True)
class _Step:
    room: int
    """How many more batches fit."""
    batches: list[int] = field(default_factory=list)


def _group_into_steps(
    order: Sequence[int], ids: Sequence[str], pixels: Sequence[int], grad_accum: int
) -> list[list[int]]:
    """Return the batches of each optimizer step.

    Batches without an id fill up the steps of those that have one, then make steps of their own. A step other than
    the last is short only if there are too few of them.

    Args:
        order: batch numbers in the order in which they are used.
        ids: the batch id of each batch number, empty for none.
        pixels: of each batch number.
        grad_accum: most batches in a step.
    """
    by_id: dict[str, list[int]] = {}
    for batch in order:
        by_id.setdefault(ids[batch], []).append(batch)
    unnamed = iter(by_id.pop("", []))
    parts: list[list[int]] = []
    for batches in by_id.values():
        parts += _chunks(batches, grad_accum)
    steps = _pack(parts, grad_accum)
    for step in steps:
        step.batches += islice(unnamed, step.room)
    return [*(step.batches for step in steps), *_chunks(_in_pairs(list(unnamed), pixels, grad_accum), grad_accum)]


def _in_pairs(order: list[int], pixels: Sequence[int], grad_accum: int) -> list[int]:
    """Of every two full steps, give the first the largest batches; two only, so that images still mix."""
    if grad_accum == 1:
        return order
    rest = len(order) % (2 * grad_accum)  # with few batches, a short step would always have those of the same bucket
    pairs = _chunks(order[: len(order) - rest], 2 * grad_accum)
    sorted_pairs = [sorted(pair, key=lambda batch: -pixels[batch]) for pair in pairs]
    return [batch for pair in sorted_pairs for batch in pair] + order[len(order) - rest :]


def _count_steps(batches: Mapping[str, int], grad_accum: int) -> int:
    """Return how many steps `_group_into_steps` makes of this many batches of each id."""
    parts: list[list[int]] = []
    for batch_id, count in batches.items():
        if batch_id:
            parts += _chunks([0] * count, grad_accum)
    steps = _pack(parts, grad_accum)
    rest = max(0, batches.get("", 0) - sum(step.room for step in steps))
    return len(steps) + -(-rest // grad_accum)


def _pack(parts: Sequence[list[int]], grad_accum: int) -> list[_Step]:
    """Put each part, the largest first, into the step whose free room it fills best.

    Steps are looked up by their free room, so that the time does not grow with the number of ids.
    """
    steps: list[_Step] = []
    by_room: dict[int, list[_Step]] = {}
    for part in sorted(parts, key=len, reverse=True):
        large_enough = [room for room, waiting in by_room.items() if waiting and room >= len(part)]
        if large_enough:
            step = by_room[min(large_enough)].pop()
        else:
            step = _Step(grad_accum)
            steps.append(step)
        step.batches += part
        step.room -= len(part)
        by_room.setdefault(step.room, []).append(step)
    return steps


def _chunks(items: list[_T], size: int) -> list[list[_T]]:
    """Return the items in lists of `size`; the last may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]
