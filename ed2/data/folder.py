"""Folders and manifests of images and captions, read into a dataset. Nothing is ever written into them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ed2.data.buckets import crop_box, is_beyond_widest, is_enlarged, nearest, smallest_side
from ed2.data.example import Dataset, Example, Finding, Kind, stamp_of
from ed2.data.images import ImageFacts, ignore_pillow_warnings
from ed2.data.manifest import is_manifest, read_manifest
from ed2.data.reading import Outline, Reader, Watch
from ed2.data.sidecars import Described, described
from ed2.data.tags import caption_of, shuffle_of
from ed2.data.walk import Findings, ImageEntry, find_images
from ed2.errors import DatasetError, Problem

MAX_PROBLEMS_TOLD = 20
"""How many files an error names when nothing can be used; the rest are counted."""
FOLDER_WANTED = "Check its spelling, or give another folder as --data_root."


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanOptions:
    """How a folder is read, and what its images get."""

    resolution: int
    flip_p: float = 0.0
    cond_dropout: float = 0.0
    shuffle_tags: bool = False
    """These three hold where no file says otherwise."""
    index_path: Path | None = None
    """Where the results of reading whole images are remembered; None reads all of them each time."""
    threads: int = 2
    headers_only: bool = False
    """Take what is not remembered from the headers of the files: a quick look, by which nothing is trained."""


def scan(
    roots: Sequence[Path],
    options: ScanOptions,
    *,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    at_outline: Callable[[Outline], None] | None = None,
) -> Dataset:
    """Read every image below `roots` in full, with its caption, and give each its bucket.

    Args:
        roots: folders, looked through with all that is in them, and manifests.
        options: how.
        progress: told the number of images done, and of all.
        should_stop: asked at each folder and image; what was read by then stays remembered.
        at_outline: told what headers say, before the images that are not remembered are read in full.

    Raises:
        DatasetError: a root is neither folder nor manifest, or there is not one image that can be used.
        StopRequested: `should_stop` said so.
    """
    ignore_pillow_warnings()
    watch = Watch(progress, should_stop, at_outline)
    places = _absolute(roots)
    findings = [_find(place, number, watch) for number, place in enumerate(places)]
    files = [file for found in findings for file in found.images]
    reader = Reader(options.index_path, options.threads, watch)
    read = reader.by_header(files) if options.headers_only else reader.in_full(files, places, options.resolution)
    made = _Made(read.num_unread)
    made.notes += [*read.notes, *(note for found in findings for note in found.notes)]
    made.problems += [problem for found in findings for problem in found.problems]
    for file, fact in zip(files, read.facts, strict=True):
        made.add(file, fact, options)
    if not made.examples:
        raise _nothing_usable(places, findings, made.problems)
    if not any(example.multiply > 0 for example in made.examples):
        problem = Problem(None, "multiply is 0 for every image.", "Raise it for those that are to be trained.")
        raise DatasetError("There is no image to train on.", [problem])
    return made.dataset(places)


@dataclass(slots=True)
class _Made:
    """What has come of the files so far."""

    num_unread: int
    examples: list[Example] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, file: ImageEntry, fact: ImageFacts, options: ScanOptions) -> None:
        """Make an example of a file, or note why it cannot be one."""
        said = described(file.path, file.layer, file.sidecars)
        example = _example(file, fact, said, options)
        if isinstance(example, Finding):
            self.problems.append(example)
            return
        self.examples.append(example)
        self.notes += _notes(example, fact, said, options.resolution)
        self.digest.update(_line(example, fact.digest).encode())

    def dataset(self, roots: tuple[Path, ...]) -> Dataset:
        """Return all of it."""
        problems = sorted(self.problems, key=lambda problem: (problem.root, problem.path or ""))
        return Dataset(
            roots,
            tuple(self.examples),
            tuple(problems),
            tuple(self.notes),
            self.digest.hexdigest(),
            num_unread=self.num_unread,
        )


def _find(place: Path, number: int, watch: Watch) -> Findings:
    if is_manifest(place):
        return read_manifest(place, number)
    return find_images(place, number, lambda found: watch.tell(0, found))


def _absolute(roots: Sequence[Path]) -> tuple[Path, ...]:
    """Return the roots as absolute paths; all that are no folders are told at once."""
    folders = tuple(root.absolute() for root in roots)
    problems = []
    for folder in folders:
        if not folder.exists():
            problems.append(Problem(str(folder), "there is no such folder.", FOLDER_WANTED))
        elif not folder.is_dir() and not is_manifest(folder):
            fix = "Give the folder that it is in, or a .json manifest."
            problems.append(Problem(str(folder), "this is a file.", fix))
    if problems or not folders:
        raise DatasetError(
            "There is nothing to train on.", problems or [Problem("data_root", "no folder of images is given.")]
        )
    return folders


def _example(file: ImageEntry, fact: ImageFacts, said: Described, options: ScanOptions) -> Example | Finding:
    """Return the example of a file, or why it cannot be one."""
    if fact.problem:
        return Finding(file.name, fact.problem.what, fact.problem.fix, root=file.root)
    bucket = nearest(fact.size, options.resolution)
    left, top, right, bottom = crop_box(fact.size, bucket)
    needed = smallest_side(options.resolution)
    if min(right - left, bottom - top) < needed:
        what = (
            f"only {right - left} x {bottom - top} of its {fact.size[0]} x {fact.size[1]} pixels would be seen, "
            f"and the short side must have {needed}."
        )
        return Finding(file.name, what, "Use a larger image, or one less long and narrow.", root=file.root)
    layer = said.layer
    return Example(
        path=Path(str(file.path)),  # a fresh one, without what looking at it has left in it
        root=file.root,
        name=file.name,
        caption=caption_of(layer, said.prompt),
        size=fact.size,
        bucket=bucket,
        flip_p=_first(layer.flip_p, options.flip_p),
        cond_dropout=_first(layer.cond_dropout, options.cond_dropout),
        multiply=_first(layer.multiply, 1.0),
        batch_id=layer.batch_id or "",
        loss_scale=_first(layer.loss_scale, 1.0),
        shuffle=shuffle_of(layer, said.prompt, default=options.shuffle_tags),
        entry=file.entry,
        stamp=stamp_of(file.stat),
    )


def _first(value: float | None, default: float) -> float:
    return default if value is None else value


def _notes(example: Example, fact: ImageFacts, said: Described, resolution: int) -> list[Finding]:
    """Return what is good to know about an image that is used."""
    (width, height), (bucket_width, bucket_height) = example.size, example.bucket
    notes: list[tuple[Kind, str, str]] = []
    if is_enlarged(example.size, example.bucket):
        what = f"{width} x {height} is enlarged to fill {bucket_width} x {bucket_height}"
        notes.append(("enlarged", what, "A larger image, or a lower resolution, trains sharper."))
    if is_beyond_widest(example.size, resolution):
        what = f"{width} x {height} is longer than the longest bucket, {bucket_width} x {bucket_height}"
        notes.append(("wide", what, "What does not fit is cut off at its ends."))
    if fact.animated:
        notes.append(("animated", "it has several frames", "Only the first is used."))
    notes += [(kind, what, f'Its caption is "{_shortened(example.caption)}".') for kind, what in said.notes]
    return [Finding(example.name, f"{what}.", fix, kind=kind, root=example.root) for kind, what, fix in notes]


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _line(example: Example, content: str) -> str:
    """Return what the fingerprint covers of one image: not its time, since a copy has another."""
    told: list[object] = [example.key, content, example.caption, example.bucket]
    told += [example.multiply, example.batch_id, example.loss_scale, example.flip_p, example.cond_dropout]
    told += [(example.shuffle.tags, example.shuffle.max_length) if example.shuffle else None]
    return json.dumps(told) + "\n"


def _nothing_usable(folders: Sequence[Path], findings: Sequence[Findings], problems: Sequence[Finding]) -> DatasetError:
    told: list[Problem] = []
    for folder, found in zip(folders, findings, strict=True):
        what = f"{found.num_files} files, {len(found.images)} of them named as images, none can be used."
        told.append(Problem(str(folder), what, "Put PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF images into it."))
    told += problems[:MAX_PROBLEMS_TOLD]
    if len(problems) > MAX_PROBLEMS_TOLD:
        told.append(Problem(None, f"and {len(problems) - MAX_PROBLEMS_TOLD} more."))
    return DatasetError("There is no image to train on.", told)
