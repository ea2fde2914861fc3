"""Reading the images that the settings name."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from ed2.data.example import Dataset
from ed2.data.folder import ScanOptions, scan
from ed2.data.reading import Outline
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.text import duration

INDEX_FILE = PROGRAM_DIR / "user" / "index.json"
MOST_THREADS = 8


def decode_threads(settings: Settings) -> int:
    """Threads that decode images: the number set, else one a core, at most eight."""
    return settings.data.decode_threads or min(MOST_THREADS, os.cpu_count() or 2)


def scan_dataset(
    settings: Settings,
    *,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    at_outline: Callable[[Outline], None] | None = None,
    headers_only: bool = False,
) -> Dataset:
    """Read every image in full; results are remembered in the user's folder.

    Args:
        settings: which images, and how they are trained.
        progress: told the number of images done, and of all.
        should_stop: asked at each folder and image.
        at_outline: told what headers say, before the images that are not remembered are read in full.
        headers_only: take what is not remembered from the files' headers: enough to count and to plan.

    Raises:
        DatasetError: there is nothing to train on.
        StopRequested: `should_stop` said so.
    """
    options = ScanOptions(
        resolution=settings.data.resolution,
        flip_p=settings.data.flip_p,
        cond_dropout=settings.data.cond_dropout,
        shuffle_tags=settings.data.shuffle_tags,
        index_path=INDEX_FILE,
        threads=decode_threads(settings),
        headers_only=headers_only,
    )
    roots = [Path(root) for root in settings.data.data_root]
    return scan(roots, options, progress=progress, should_stop=should_stop, at_outline=at_outline)


class Pace:
    """Says how long the rest of a count takes at the pace so far."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with the first count that is told; `clock` gives seconds."""
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def told(self, done: int, total: int) -> str:
        """Return "image 1,200 of 20,000, about 3 min 20 s left"."""
        return f"image {done:,} of {total:,}{self.left(done, total)}"

    def left(self, done: int, total: int) -> str:
        """Return ", about 3 min 20 s left"; nothing while that is not known, and at the end."""
        if self._first is None:
            self._first = (done, self._clock())
        first, began = self._first
        if done in (first, total):
            return ""
        return f", about {duration((total - done) * (self._clock() - began) / (done - first))} left"
