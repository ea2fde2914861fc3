"""Images that are set apart from the training, or measured again and again, to see how a model learns."""

import math
from collections.abc import Sequence
from dataclasses import replace

from ed2.data.example import Example
from ed2.draws import rng


def chosen(examples: Sequence[Example], share: float, seed: int) -> frozenset[str]:
    """Return the keys of a random share of the images, at least one and never all of them.

    Entries of one file stay together. The choice depends on the seed and the images' names only, not on their order.
    """
    names = sorted({(example.root, example.name) for example in examples if example.multiply > 0})
    count = min(len(names) - 1, max(1, math.ceil(share * len(names))))
    if count < 1:
        return frozenset()
    order = rng(seed, "validation split").permutation(len(names))[:count].tolist()
    taken = {names[place] for place in order}
    return frozenset(example.key for example in examples if (example.root, example.name) in taken)


def measured(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Return the images as they are measured: once each, never mirrored, always with their whole caption."""
    plain = {"multiply": 1.0, "flip_p": 0.0, "cond_dropout": 0.0, "loss_scale": 1.0, "batch_id": "", "shuffle": None}
    return tuple(replace(example, **plain) for example in examples)  # type: ignore[arg-type]
