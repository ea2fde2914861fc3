"""The images that a run trains and validates on: read as the settings say, and reported if they are lost or changed."""

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ed2.curve_names import LOSS_STABILIZED, LOSS_VAL
from ed2.data.duplicates import trained_too
from ed2.data.example import Dataset, Example, Finding, FindingKind
from ed2.data.fingerprint import quick_fingerprint
from ed2.data.folder import ScanOptions, scan
from ed2.data.full_reads import FullReads
from ed2.data.reading import Outline
from ed2.draws import rng
from ed2.errors import DatasetError
from ed2.events import EventBus, Warned
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.text import counted, first_of, plural, rough_duration

INDEX_FILE = PROGRAM_DIR / "user" / "index.json"
MAX_THREADS = 8
MAX_REPORTED = 20
"""Images of a kind that are reported as events; further ones only appear in run.log and in the count."""
MORE = "Further images like these are only listed in run.log, and counted at the end of the run."
HEADINGS: dict[FindingKind, str] = {"unusable": "An image was left out.", "changed": "An image has changed."}

logger = logging.getLogger(__name__)

LeftOut = Mapping[str, Sequence[str]]
"""The files that a run leaves out, by root and name, for each set of images."""
TRAINING = "training"
MAX_NAMES = 20
"""How many images a note names."""
MAX_PROBLEMS = 3
"""How many unusable files of a validation folder are reported."""


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
        """Return "image 1,200 of 20,000, about 3 min left"; empty where there are none."""
        if not total:
            return ""
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


@dataclass(frozen=True)
class ValidationSplit:
    """The images to train on and the images to validate on.

    Attributes:
        training: the dataset without the images that are held out for validation.
        curves: the images of each curve, by TensorBoard tag.
        keys: the keys of the images that are held out for validation.
        notes: sentences to report about it.
        left_out: the files that cannot be used, for the images to train on under `TRAINING` and those of each
            validation folder under its tag. None if all were read in full, so that the files themselves tell.
    """

    training: Dataset
    curves: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    left_out: LeftOut | None = None


def split_off_validation(
    settings: Settings,
    dataset: Dataset,
    *,
    should_stop: Callable[[], bool] | None = None,
    left_out: LeftOut | None = None,
) -> ValidationSplit:
    """Choose the images to validate on, and read the validation folders.

    With `left_out`, the files that a resumed run leaves out or none, only headers are read; in full without.

    Raises:
        DatasetError: such a folder has no usable images.
        StopRequested: `should_stop` returned True.
    """
    wanted = settings.validation
    curves: dict[str, Sequence[Example]] = {}
    notes: list[str] = []
    keys: frozenset[str] = frozenset()
    if wanted.val_split_mode == "automatic":
        keys = sample_keys(dataset.examples, wanted.auto_split_proportion, wanted.val_seed)
        curves[LOSS_VAL] = _with_keys(dataset.examples, keys)
        notes.append(_split_note(len(keys), len(dataset.examples)))
    training = replace(dataset, examples=tuple(e for e in dataset.examples if e.key not in keys))
    unusable = {TRAINING: sorted(dataset.left_out)}
    for tag, folder in _folders(settings).items():
        found = _read(settings.replaced(data_root=(folder,)), should_stop, tag, left_out)
        unusable[tag] = sorted(found.left_out)
        curves[tag] = found.examples
        notes += [f"Left out of {tag}: {problem}" for problem in found.problems[:MAX_PROBLEMS]]
    for tag, examples in curves.items():
        notes += _trained_note(tag, examples, training.examples)
    if wanted.stabilize_training_loss:
        stable = sample_keys(training.examples, wanted.stabilize_split_proportion, wanted.val_seed)
        curves[LOSS_STABILIZED] = _with_keys(training.examples, stable)
    validated = {tag: for_validation(examples) for tag, examples in curves.items() if examples}
    return ValidationSplit(training, validated, keys, tuple(notes), None if left_out is None else unusable)


def sample_keys(examples: Sequence[Example], share: float, seed: int) -> frozenset[str]:
    """Return the keys of a random share of the images: at least one, never all of them.

    Manifest entries for the same file stay together. The choice depends only on the seed and the images' names, not on
    their order.
    """
    names = sorted({(example.root, example.name) for example in examples if example.multiply > 0})
    count = min(len(names) - 1, max(1, math.ceil(share * len(names))))
    if count < 1:
        return frozenset()
    order = rng(seed, "validation split").permutation(len(names))[:count].tolist()
    sampled = {names[index] for index in order}
    return frozenset(example.key for example in examples if (example.root, example.name) in sampled)


def for_validation(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Return the images as they are validated: once each, never mirrored, always with their whole caption."""
    plain = {"multiply": 1.0, "flip_p": 0.0, "cond_dropout": 0.0, "loss_scale": 1.0, "batch_id": "", "shuffle": None}
    return tuple(replace(example, **plain) for example in examples)  # type: ignore[arg-type]


def _with_keys(examples: Sequence[Example], keys: frozenset[str]) -> list[Example]:
    return [example for example in examples if example.key in keys]


def _read(settings: Settings, should_stop: Callable[[], bool] | None, tag: str, left_out: LeftOut | None) -> Dataset:
    """Read a validation folder. Raises DatasetError, which says that it is one."""
    try:
        if left_out is None:
            return scan_dataset(settings, should_stop=should_stop)
        return scan_dataset(settings, should_stop=should_stop, headers_only=True, left_out=left_out.get(tag))
    except DatasetError as error:
        raise DatasetError("There are no images to validate with.", error.problems) from None


def _folders(settings: Settings) -> dict[str, str]:
    """Return the validation folders by TensorBoard tag."""
    wanted = settings.validation
    folders: dict[str, str] = {}
    if wanted.val_split_mode == "manual":
        folders[LOSS_VAL] = wanted.manual_data_root or ""
    for text in wanted.extra_manual_datasets:
        name, _, folder = text.partition("=")
        folders[f"loss/{name}"] = folder
    return {tag: str(Path(folder)) for tag, folder in folders.items() if folder}


def _trained_note(tag: str, validated: Sequence[Example], trained: Sequence[Example]) -> list[str]:
    """Return a note if images of a curve are also trained on: it then falls by memorisation too."""
    both = trained_too(validated, trained)
    if not both:
        return []
    names = first_of([str(example.path) for example in both], MAX_NAMES)
    return [
        f"{len(both):,} of {counted(len(validated), 'image')} of {tag} {plural(len(both), 'is', 'are')} also trained "
        f"on, so the curve does not show how well the model does on new images: {names}."
    ]


def _split_note(count: int, total: int) -> str:
    if not count:
        return "There is only one image, so nothing is held out for validation."
    return f"{count} of {total} images are held out for validation and not trained on."
