"""Folders and manifests of images and captions, read into a dataset. Nothing is ever written into them."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ed2.data.buckets import Size, crop_box, is_beyond_widest_bucket, nearest_bucket, needs_enlarging, side_step
from ed2.data.duplicates import find_duplicates, summary
from ed2.data.example import Dataset, Example, Finding, FindingKind, file_stamp
from ed2.data.fingerprint import fingerprint_line
from ed2.data.image_config import caption_in_order, tag_shuffle
from ed2.data.images import ImageFacts, ignore_pillow_warnings
from ed2.data.manifest import is_manifest, read_manifest
from ed2.data.reading import ImageReader, Outline, ReadResult, ScanCallbacks, reading_versions
from ed2.data.scan_cache import ScanCache, state_of
from ed2.data.sidecars import ImageDescription, describe_image
from ed2.data.walk import ImageEntry, RootContents, find_images
from ed2.errors import DatasetError, Problem
from ed2.garbage import without_collection

MAX_LISTED = 20
"""How many files an error names if nothing can be used; the rest are counted."""
FOLDER_WANTED = (
    "Check the spelling (in a terminal, a path with spaces needs quotes), or choose another folder with --data_root."
)
MAX_QUOTED = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanOptions:
    """How a folder is read, and the defaults for its images."""

    resolution: int
    flip_p: float = 0.0
    cond_dropout: float = 0.0
    shuffle_tags: bool = False
    """These three apply unless a sidecar says otherwise."""
    index_path: Path | None = None
    """Where the results of full reads are remembered; with None every image is read each time."""
    threads: int = 2
    follow_links: bool = False
    """Search folders outside the roots too if a link leads there."""
    headers_only: bool = False
    """Read only the headers of files that are not remembered, as for a quick look and for the start of a run."""
    left_out: frozenset[str] | None = None
    """For a resumed run: the files that it has left out since its start, by root and name, and no others. None leaves
    out every file that is known to be damaged. Only with `headers_only`."""


def scan(
    roots: Sequence[Path],
    options: ScanOptions,
    *,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_outline: Callable[[Outline], None] | None = None,
) -> Dataset:
    """Read every image below `roots`, in full unless the options say otherwise, and assign each to its bucket.

    Args:
        roots: folders, searched with all their subfolders, and manifests.
        options: how they are read.
        progress: called with the number of images done and the total.
        should_stop: called for each folder and image; what was read by then stays remembered.
        on_outline: called with what headers say, before new or changed images are read in full.

    Raises:
        DatasetError: a root is neither folder nor manifest, or no image can be used.
        StopRequested: `should_stop` returned True.
    """
    ignore_pillow_warnings()
    callbacks = ScanCallbacks(progress, should_stop, on_outline)
    paths = _absolute(roots)
    with without_collection():
        cache, state = _cache_of(paths, options, callbacks)
        known = cache.find(state) if cache and state else None
    if known and options.left_out in (None, known.left_out):
        callbacks.report(len(known.examples), len(known.examples))
        return known
    with without_collection() if options.headers_only else nullcontext():  # a full read may take hours
        dataset, is_lasting = _search(paths, options, callbacks)
    if cache and state and is_lasting and options.left_out is None:
        cache.keep(state, dataset)
    return dataset


def _search(paths: tuple[Path, ...], options: ScanOptions, callbacks: ScanCallbacks) -> tuple[Dataset, bool]:
    """Return what is in the roots now, and whether that stays true until a file changes.

    Raises:
        DatasetError: no image can be used.
    """
    contents = [_contents(path, number, callbacks, options.follow_links) for number, path in enumerate(paths)]
    files: list[ImageEntry] = []
    for found in contents:
        files += found.images
    reader = ImageReader(options.index_path, options.threads, callbacks)
    if options.headers_only:
        read = reader.read_headers(files, options.left_out)
    else:
        read = reader.read_in_full(files, paths, options.resolution)
    builder = _DatasetBuilder(read.num_unread, notes=list(read.notes))
    for found in contents:
        builder.notes += found.notes
        builder.problems += found.problems
    for file, facts in zip(files, read.facts, strict=True):
        builder.add(file, facts, options)
    builder.add_duplicates(len(paths))
    if not builder.examples:
        raise _nothing_usable(paths, contents, builder.problems)
    if not any(example.multiply > 0 for example in builder.examples):
        problem = Problem(None, "multiply is 0 for every image.", "Raise it for the images to train.")
        raise DatasetError("There are no images to train on.", [problem])
    dataset = builder.dataset(paths)
    return dataset, _is_lasting(read, dataset)


def _cache_of(paths: tuple[Path, ...], options: ScanOptions, callbacks: ScanCallbacks) -> tuple[ScanCache | None, str]:
    """Return where the dataset of such a scan is kept, and the state that the files are in; empty if neither helps."""
    if options.index_path is None or any(map(is_manifest, paths)):
        return None, ""
    if options.headers_only and not options.index_path.exists():  # then no image is known in full
        return None, ""
    given = (options.resolution, options.flip_p, options.cond_dropout, options.shuffle_tags, options.follow_links)
    cache = ScanCache(options.index_path.with_name("scans"), paths, given)
    return cache, state_of(paths, callbacks.raise_if_stopped, reading_versions())


def _is_lasting(read: ReadResult, dataset: Dataset) -> bool:
    """Whether everything found stays true until a file changes; a side file, say, may be unreadable only now."""
    if read.num_unread or not all(facts.lasting for facts in read.facts):
        return False
    return not any(note.kind in ("index", "sidecar") for note in dataset.notes)


@dataclass(slots=True)
class _DatasetBuilder:
    """Collects examples and findings file by file."""

    num_unread: int
    examples: list[Example] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, file: ImageEntry, facts: ImageFacts, options: ScanOptions) -> None:
        """Add the example of a file, or the reason why it cannot be used."""
        problem = facts.problem or _fit(facts.size, options.resolution).problem
        if problem:
            self.problems.append(Finding(file.name, problem.what, problem.fix, root=file.root))
            return
        description = describe_image(file.path, file.config, file.sidecars)
        example = _example(file, facts, description, options)
        self.examples.append(example)
        self.notes += _notes(example, facts, description, options.resolution)
        if not self.num_unread:
            more = ["sRGB"] if "converted" in facts.marks else []  # a version without colour profiles had other pixels
            self.digest.update(fingerprint_line(example, facts.digest, *more))

    def add_duplicates(self, num_roots: int) -> None:
        """Add a note for each image that is there more than once, and one with counts."""
        groups = find_duplicates(self.examples, num_roots)
        if groups:
            self.notes += [summary(groups), *(group.finding() for group in groups)]

    def dataset(self, roots: tuple[Path, ...]) -> Dataset:
        """Return everything collected."""
        problems = sorted(self.problems, key=lambda problem: (problem.root, problem.path or ""))
        return Dataset(
            roots,
            tuple(self.examples),
            tuple(problems),
            tuple(self.notes),
            "" if self.num_unread else self.digest.hexdigest(),
            num_unread=self.num_unread,
        )


def _contents(path: Path, number: int, callbacks: ScanCallbacks, follow_links: bool) -> RootContents:
    if is_manifest(path):
        return read_manifest(path, number)
    return find_images(path, number, lambda found: callbacks.report(0, found), follow_links=follow_links)


def _absolute(roots: Sequence[Path]) -> tuple[Path, ...]:
    """Return the roots as absolute paths. Raises DatasetError, which lists all that do not exist or are files."""
    paths = tuple(root.absolute() for root in roots)
    problems = []
    for path in paths:
        if not path.exists():
            problems.append(Problem(str(path), "the folder does not exist.", FOLDER_WANTED))
        elif not path.is_dir() and not is_manifest(path):
            fix = "Choose the folder that it is in, or a .json manifest."
            problems.append(Problem(str(path), "this is a file.", fix))
    if not paths:
        problems.append(Problem("data_root", "no folder of images is set."))
    if problems:
        raise DatasetError("There are no images to train on.", problems)
    return paths


class _Fit(NamedTuple):
    """How images of one size fit a resolution."""

    bucket: Size
    problem: Problem | None
    notes: tuple[tuple[FindingKind, str, str], ...]


@lru_cache(maxsize=1 << 14)  # most datasets have few different sizes
def _fit(size: Size, resolution: int) -> _Fit:
    """Choose the bucket; a crop of too little detail is a problem."""
    bucket = nearest_bucket(size, resolution)
    left, top, right, bottom = crop_box(size, bucket)
    needed = side_step(resolution)
    if min(right - left, bottom - top) < needed:
        used, whole = f"{right - left} x {bottom - top}", f"{size[0]} x {size[1]}"
        has = f"it has {whole} pixels" if used == whole else f"only {used} of its {whole} pixels would be used"
        what = f"{has}, and the short side must be at least {needed}."
        return _Fit(bucket, Problem(None, what, "Use a larger image, or one closer to square."), ())
    notes: list[tuple[FindingKind, str, str]] = []
    if needs_enlarging(size, bucket):
        what = f"{size[0]} x {size[1]} is enlarged to fill {bucket[0]} x {bucket[1]}"
        notes.append(("enlarged", what, "Use a larger image or a lower resolution for sharper results."))
    if is_beyond_widest_bucket(size, resolution):
        what = f"{size[0]} x {size[1]} is longer than the longest bucket, {bucket[0]} x {bucket[1]}"
        notes.append(("wide", what, "Both ends are cropped."))
    return _Fit(bucket, None, tuple(notes))


def _example(file: ImageEntry, facts: ImageFacts, description: ImageDescription, options: ScanOptions) -> Example:
    config, prompt = description.config, description.prompt
    return Example(
        path=Path(file.path),
        root=file.root,
        name=file.name,
        caption=caption_in_order(config, prompt),
        size=facts.size,
        bucket=_fit(facts.size, options.resolution).bucket,
        flip_p=_or_default(config.flip_p, options.flip_p),
        cond_dropout=_or_default(config.cond_dropout, options.cond_dropout),
        multiply=_or_default(config.multiply, 1.0),
        batch_id=config.batch_id or "",
        loss_scale=_or_default(config.loss_scale, 1.0),
        shuffle=tag_shuffle(config, prompt, default=options.shuffle_tags),
        entry=file.entry,
        stamp=file_stamp(file.stat),
        digest=facts.digest,
    )


def _or_default(value: float | None, default: float) -> float:
    return default if value is None else value


def _notes(example: Example, facts: ImageFacts, description: ImageDescription, resolution: int) -> list[Finding]:
    """Return what is worth knowing about an image that is used."""
    notes = list(_fit(example.size, resolution).notes)
    if facts.animated:
        notes.append(("animated", "it has several frames", "Only the first is used."))
    if "plain" in facts.marks:
        notes.append(("plain", "it has one plain colour", "Delete it, unless it is meant to be there."))
    if "bad profile" in facts.marks:
        notes.append(("bad profile", "its colour profile is broken, or for other colours", "The profile is ignored."))
    if not notes and not description.notes:
        return []
    caption = example.caption
    if len(caption) > MAX_QUOTED:
        caption = f"{caption[: MAX_QUOTED - 3]}..."
    notes += [(kind, what, f'The caption is "{caption}".') for kind, what in description.notes]
    return [Finding(example.name, f"{what}.", fix, kind=kind, root=example.root) for kind, what, fix in notes]


def _nothing_usable(
    roots: Sequence[Path], contents: Sequence[RootContents], problems: Sequence[Finding]
) -> DatasetError:
    listed: list[Problem] = []
    for root, found in zip(roots, contents, strict=True):
        what = "the folder is empty." if root.is_dir() else "it lists no images."
        if found.num_files:
            what = f"none of its {found.num_files} files can be used; {len(found.images)} look like an image."
        listed.append(Problem(str(root), what, "Add PNG, JPEG, WebP, BMP, GIF, TIFF, AVIF or HEIC images."))
    listed += problems[:MAX_LISTED]
    if len(problems) > MAX_LISTED:
        listed.append(Problem(None, f"and {len(problems) - MAX_LISTED} more."))
    return DatasetError("There are no images to train on.", listed)
