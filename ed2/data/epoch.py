"""Which images an epoch shows, in which batches and in which order: a function of its arguments alone."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ed2.data.buckets import Size
from ed2.data.example import Example
from ed2.data.grouping import groups_of, num_groups
from ed2.data.showings import Showings
from ed2.draws import rng


class Visit(NamedTuple):
    """One showing of an image."""

    example: int
    """Its place in the list of examples."""
    repeat: int
    """The how-many-th showing in this epoch, from 0."""


class PlannedBatch(NamedTuple):
    """Images of one size that are shown together; the last batch of a bucket may be short."""

    bucket: Size
    visits: tuple[Visit, ...]


Plan = tuple[tuple[PlannedBatch, ...], ...]
"""One inner tuple holds the batches of one optimizer step."""


class Planner:
    """Deals the images of any epoch; what all epochs have in common is worked out once."""

    def __init__(self, examples: Sequence[Example], *, seed: int, batch_size: int, grad_accum: int) -> None:
        """Look at the images; a plan depends on their order.

        Args:
            examples: what is shown.
            seed: of the run.
            batch_size: images in a batch, at most.
            grad_accum: batches in an optimizer step, at most.
        """
        self.batch_size = batch_size
        self._seed, self._grad_accum = seed, grad_accum
        self._showings = Showings(examples, seed)
        self._piles = sorted({(example.batch_id, example.bucket) for example in examples})
        place_of = {pile: place for place, pile in enumerate(self._piles)}
        self._pile_of = np.array([place_of[example.batch_id, example.bucket] for example in examples], dtype=np.int64)

    @property
    def is_same_every_epoch(self) -> bool:
        """Whether every epoch has the same number of steps."""
        return self._showings.is_same_every_epoch

    def plan(self, epoch: int) -> Plan:
        """Deal an epoch into batches of one bucket each, and the batches into optimizer steps.

        Every image is shown exactly as often as its multiplier says. Images are shuffled within their bucket,
        batches over all buckets. Images with a batch id are in batches of their own, and the batches of one id in
        one optimizer step as far as they have room there. Nothing is shown twice to fill a batch, and nothing is left
        out.
        """
        batches: list[PlannedBatch] = []
        ids: list[str] = []
        for (batch_id, bucket), visits in zip(self._piles, self._shuffled_piles(epoch), strict=True):
            for start in range(0, len(visits), self.batch_size):
                batches.append(PlannedBatch(bucket, tuple(visits[start : start + self.batch_size])))
                ids.append(batch_id)
        order = rng(self._seed, "batch order", epoch).permutation(len(batches)).tolist()
        groups = groups_of(order, ids, self._grad_accum)
        if any(ids):  # those with an id were put together first: mix them with the others
            mixed = rng(self._seed, "group order", epoch).permutation(len(groups)).tolist()
            groups = [groups[place] for place in mixed]
        return tuple(tuple(batches[place] for place in group) for group in groups)

    def steps(self, epoch: int) -> int:
        """Return the number of optimizer steps of an epoch, without dealing it."""
        batches = Counter[str]()
        for (batch_id, _), count in zip(self._piles, self.counts(epoch), strict=True):
            batches[batch_id] += -(-count // self.batch_size)
        return num_groups(batches, self._grad_accum)

    def buckets(self, epoch: int) -> dict[Size, tuple[int, int, int]]:
        """Return for each bucket the showings in an epoch, its batches, and the showings in batches that are short."""
        found: dict[Size, tuple[int, int, int]] = {}
        for (_, bucket), count in zip(self._piles, self.counts(epoch), strict=True):
            showings, batches, short = found.get(bucket, (0, 0, 0))
            more = -(-count // self.batch_size)
            found[bucket] = (showings + count, batches + more, short + count % self.batch_size)
        return found

    def counts(self, epoch: int) -> list[int]:
        """Return the showings in an epoch of each kind of batch, that is of each size and batch id."""
        # Weights are floats, which hold whole numbers exactly up to 2 ** 53.
        counts = np.bincount(self._pile_of, weights=self._showings.in_epoch(epoch), minlength=len(self._piles))
        return [int(count) for count in counts.tolist()]

    def _shuffled_piles(self, epoch: int) -> list[list[Visit]]:
        visits = _shuffled_visits(self._showings.in_epoch(epoch), self._seed, epoch)
        # A stable sort keeps the shuffled order within each pile.
        dealt = visits[np.argsort(self._pile_of[visits[:, 0]], kind="stable")]
        borders = np.searchsorted(self._pile_of[dealt[:, 0]], np.arange(len(self._piles) + 1)).tolist()
        return [[Visit(*pair) for pair in dealt[first:last].tolist()] for first, last in pairwise(borders)]


def plan_epoch(examples: Sequence[Example], *, seed: int, epoch: int, batch_size: int, grad_accum: int) -> Plan:
    """Return the plan of one epoch."""
    return Planner(examples, seed=seed, batch_size=batch_size, grad_accum=grad_accum).plan(epoch)


def _shuffled_visits(showings: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return rows of (example, repeat) in a random order."""
    places = np.repeat(np.arange(len(showings)), showings)
    first_showing = np.repeat(np.cumsum(showings) - showings, showings)
    repeats = np.arange(len(places)) - first_showing
    # The name is part of the draw: another one would reorder every run.
    shuffled = rng(seed, "picture order", epoch).permutation(len(places))
    return np.stack([places, repeats], axis=1)[shuffled]
