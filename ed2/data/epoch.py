"""Which pictures an epoch shows, in which batches and in which order: a function of its arguments alone."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ed2.data.buckets import Size
from ed2.data.example import Example
from ed2.draws import rng


class Visit(NamedTuple):
    """One showing of a picture."""

    example: int
    """Its place in the list of examples."""
    repeat: int
    """The how-many-th showing in this epoch, from 0."""


class PlannedBatch(NamedTuple):
    """Pictures of one size that are shown together; the last batch of a bucket may be short."""

    bucket: Size
    visits: tuple[Visit, ...]


Plan = tuple[tuple[PlannedBatch, ...], ...]
"""One inner tuple holds the batches of one optimizer step."""


def plan_epoch(examples: Sequence[Example], *, seed: int, epoch: int, batch_size: int, grad_accum: int) -> Plan:
    """Deal the pictures of an epoch into batches of one bucket each, and the batches into optimizer steps.

    Every picture is shown exactly as often as its multiplier says; a fraction is rounded up or down, right on average.
    Pictures are shuffled within their bucket, batches over all buckets. Nothing is shown twice to fill a batch, and
    nothing is left out.
    """
    visits = _shuffled_visits(examples, seed, epoch)
    buckets, bucket_of = _bucket_numbers(examples)
    batches: list[PlannedBatch] = []
    # A stable sort keeps the shuffled order within each bucket.
    dealt = visits[np.argsort(bucket_of[visits[:, 0]], kind="stable")]
    borders = np.searchsorted(bucket_of[dealt[:, 0]], np.arange(len(buckets) + 1))
    for bucket, (first, last) in zip(buckets, pairwise(borders.tolist()), strict=True):
        shown = [Visit(*pair) for pair in dealt[first:last].tolist()]
        for start in range(0, len(shown), batch_size):
            batches.append(PlannedBatch(bucket, tuple(shown[start : start + batch_size])))
    order = rng(seed, "batch order", epoch).permutation(len(batches)).tolist()
    return tuple(
        tuple(batches[place] for place in order[start : start + grad_accum])
        for start in range(0, len(order), grad_accum)
    )


def steps_per_epoch(examples: Sequence[Example], *, seed: int, epoch: int, batch_size: int, grad_accum: int) -> int:
    """Return the number of optimizer steps of an epoch, as `plan_epoch` deals them, without dealing them."""
    showings = showings_per_bucket(examples, seed=seed, epoch=epoch).values()
    batches = sum(-(-count // batch_size) for count in showings)
    return -(-batches // grad_accum)


def showings_per_bucket(examples: Sequence[Example], *, seed: int, epoch: int) -> dict[Size, int]:
    """Return how many pictures an epoch shows in each bucket, repeats counted."""
    buckets, bucket_of = _bucket_numbers(examples)
    # Weights are floats, which hold whole numbers exactly up to 2 ** 53.
    counts = np.bincount(bucket_of, weights=_showings(examples, seed, epoch), minlength=len(buckets))
    return {bucket: int(count) for bucket, count in zip(buckets, counts.tolist(), strict=True)}


def is_same_every_epoch(examples: Sequence[Example]) -> bool:
    """Tell whether all multipliers are whole, so that every epoch has the same number of steps."""
    return all(float(example.multiply).is_integer() for example in examples)


def _showings(examples: Sequence[Example], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return how often each picture is shown in this epoch.

    The fractions are laid end to end in a random order, and a picture is shown once more where a ruler with marks one
    apart, laid on at a random place, has a mark on its fraction: each picture's chance is its fraction, and the number
    of all showings is that of the multipliers, rounded.
    """
    multipliers = np.array([example.multiply for example in examples], dtype=np.float64)
    whole = np.floor(multipliers)
    generator = rng(seed, "multiply", epoch)
    order = generator.permutation(len(multipliers))
    ends = np.cumsum((multipliers - whole)[order]) + generator.random()
    showings = whole.astype(np.int64)
    showings[order] += np.diff(np.floor(ends), prepend=0).astype(np.int64)
    return showings


def _shuffled_visits(examples: Sequence[Example], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return rows of (example, repeat) in a random order."""
    showings = _showings(examples, seed, epoch)
    places = np.repeat(np.arange(len(examples)), showings)
    first_showing = np.repeat(np.cumsum(showings) - showings, showings)
    repeats = np.arange(len(places)) - first_showing
    shuffled = rng(seed, "picture order", epoch).permutation(len(places))
    return np.stack([places, repeats], axis=1)[shuffled]


def _bucket_numbers(examples: Sequence[Example]) -> tuple[list[Size], NDArray[np.int64]]:
    """Return the buckets in use, sorted, and for each picture the place of its bucket among them."""
    buckets = sorted({example.bucket for example in examples})
    place_of = {bucket: place for place, bucket in enumerate(buckets)}
    return buckets, np.array([place_of[example.bucket] for example in examples], dtype=np.int64)
