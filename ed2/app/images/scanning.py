"""Reads the images that the settings name, and reports those that are lost or changed during the run."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ed2.data.example import Dataset, Finding, FindingKind
from ed2.data.fingerprint import quick_fingerprint
from ed2.data.folder import ScanOptions, scan
from ed2.data.full_reads import FullReads
from ed2.data.reading import Outline
from ed2.events import EventBus, Warned
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.text import rough_duration

INDEX_FILE = PROGRAM_DIR / "user" / "index.json"
MAX_THREADS = 8
MAX_REPORTED = 20
"""Images of a kind that are reported as events; further ones only appear in run.log and in the count."""
MORE = "Further images like these are only listed in run.log, and counted at the end of the run."
HEADINGS: dict[FindingKind, str] = {"unusable": "An image was left out.", "changed": "An image has changed."}

logger = logging.getLogger(__name__)


def fingerprints_file() -> Path:
    """Where the fingerprints of images are kept that near duplicates are found by: beside the index."""
    return INDEX_FILE.with_name("fingerprints.json")


def full_reads() -> FullReads:
    """What a run finds out about its images when it decodes them, for the index."""
    return FullReads(INDEX_FILE)


def decode_threads(settings: Settings, processes: int = 1) -> int:
    """The threads that decode images: the setting, or else one per core that this process has, at most eight."""
    cores = (os.cpu_count() or 2) // processes
    return settings.data.decode_threads or max(1, min(MAX_THREADS, cores))


def scan_dataset(
    settings: Settings,
    *,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_outline: Callable[[Outline], None] | None = None,
    headers_only: bool = False,
    left_out: Iterable[str] | None = None,
) -> Dataset:
    """Read every image, in full unless only headers are wanted; results are remembered in the user's folder.

    Args:
        settings: which images, and how they are trained.
        progress: called with the number of images done and the total.
        should_stop: called for each folder and image.
        on_outline: called with what headers say, before new or changed images are read in full.
        headers_only: read only the headers of new or changed images: enough to count, to plan and to start.
        left_out: with headers only, the files that a resumed run leaves out; see `ScanOptions`.

    Raises:
        DatasetError: there are no images to train on.
        StopRequested: `should_stop` returned True.
    """
    options = ScanOptions(
        resolution=settings.data.resolution,
        flip_p=settings.data.flip_p,
        cond_dropout=settings.data.cond_dropout,
        shuffle_tags=settings.data.shuffle_tags,
        index_path=INDEX_FILE,
        threads=decode_threads(settings),
        follow_links=settings.data.follow_links,
        headers_only=headers_only,
        left_out=None if left_out is None else frozenset(left_out),
    )
    roots = [Path(root) for root in settings.data.data_root]
    return scan(roots, options, progress=progress, should_stop=should_stop, on_outline=on_outline)


def scan_to_start(
    settings: Settings,
    left_out: Iterable[str] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Dataset:
    """Read the headers of the images that a run starts with, as `scan_dataset`; the fingerprint is a quick one."""
    dataset = scan_dataset(settings, progress=progress, should_stop=should_stop, headers_only=True, left_out=left_out)
    return replace(dataset, fingerprint=quick_fingerprint(dataset.examples, decode_threads(settings)))


class TimeLeft:
    """Estimates how long the rest takes from the speed so far."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with the first count; `clock` returns seconds."""
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def images(self, done: int, total: int) -> str:
        """Return "image 1,200 of 20,000, about 3 min left"."""
        return f"image {done:,} of {total:,}{self.suffix(done, total)}"

    def suffix(self, done: int, total: int) -> str:
        """Return ", about 3 min left"; nothing while that is unknown, and at the end."""
        if self._first is None:
            self._first = (done, self._clock())
        first, start = self._first
        if done in (first, total):
            return ""
        return f", about {rough_duration((total - done) * (self._clock() - start) / (done - first))} left"


@dataclass
class ImageFaults:
    """Reports and counts, by kind, the images with a problem. A validation opens its images again each time."""

    bus: EventBus
    step: Callable[[], int] = lambda: 0
    count: Counter[FindingKind] = field(default_factory=Counter)
    _seen: set[tuple[FindingKind, Path | None, str | None]] = field(default_factory=set)

    def __call__(self, finding: Finding) -> None:
        """Report an image the first time that it has this kind of problem."""
        mark = (finding.kind, finding.file, finding.path)
        if mark in self._seen:
            return
        self._seen.add(mark)
        self.count[finding.kind] += 1
        text = f"{HEADINGS[finding.kind]} {finding}"
        if self.count[finding.kind] > MAX_REPORTED:
            logger.info("%s", text)
            text = MORE
        if self.count[finding.kind] <= MAX_REPORTED + 1:
            self.bus.emit(Warned(self.step(), text))
