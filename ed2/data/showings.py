"""How often each image is shown in each epoch, as its multiplier says, fractions included."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ed2.data.example import Example
from ed2.draws import rng


class Showings:
    """The number of showings of each image, exact over epochs and over the images of a folder.

    An image with the fraction f is shown once more in every epoch in which f (epoch + 1) + phase passes a whole
    number, so that in any n epochs it is shown f n times, rounded up or down. The phases of the n images of one
    folder with one fraction lie 1 / n apart, in a random order and from a random start on: no image is favoured, and
    an epoch shows f n of them, rounded up or down.
    """

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        multipliers = np.array([example.multiply for example in examples], dtype=np.float64)
        self._whole = np.floor(multipliers).astype(np.int64)
        fractions = multipliers - self._whole
        self._places = np.flatnonzero(fractions)
        self._fractions = fractions[self._places]
        folders = [_folder(examples[place]) for place in self._places.tolist()]
        self._phases = _phases(folders, self._fractions, seed)

    @property
    def is_same_every_epoch(self) -> bool:
        """Whether all multipliers are whole."""
        return not len(self._places)

    def in_epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the showings of each image in one epoch."""
        showings = self._whole.copy()
        passed = [np.floor(self._fractions * number + self._phases) for number in (epoch, epoch + 1)]
        showings[self._places] += (passed[1] - passed[0]).astype(np.int64)
        return showings


def _folder(example: Example) -> str:
    return f"{example.root}/{example.name.rpartition('/')[0]}"


def _phases(folders: Sequence[str], fractions: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return a number from 0 to 1 for each image, evenly spread over those of one folder and fraction."""
    alike: dict[tuple[str, float], int] = {}
    keys = zip(folders, fractions.tolist(), strict=True)
    group_of = np.array([alike.setdefault(key, len(alike)) for key in keys], dtype=np.int64)
    generator = rng(seed, "multiply")
    order = np.lexsort((generator.random(len(group_of)), group_of))
    sizes = np.bincount(group_of, minlength=len(alike))
    first = np.cumsum(sizes) - sizes
    ranks = np.empty(len(group_of), dtype=np.int64)
    ranks[order] = np.arange(len(group_of)) - first[group_of[order]]
    phases: NDArray[np.float64] = (ranks + generator.random(len(alike))[group_of]) / sizes[group_of]
    return phases
