"""The report of a check about a dataset, as JSON and as text."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ed2.data.buckets import Size, bucket_sizes
from ed2.data.epoch import BucketUse, EpochPlanner
from ed2.data.example import Dataset, Example, Finding, FindingKind
from ed2.settings.schema import RESOLUTIONS
from ed2.text import counted, first_of

MAX_FILES = 20
"""How many unusable files the text lists; the rest are counted."""
MAX_NAMES = 3
"""How many files the text names for each kind of note."""
TABLE_COLUMNS = 100
FULL_ENOUGH = 0.75
"""Batches that are on average less full than this get a note."""

HEADINGS: Mapping[FindingKind, str] = {
    "enlarged": "Enlarged, since smaller than the bucket",
    "wide": "Cropped at both ends, since longer than the longest bucket",
    "animated": "Several frames; only the first is used",
    "file name": "Caption taken from the file name",
    "no caption": "No caption at all",
    "guessed": "Text not UTF-8; read as UTF-16 or Western European",
    "cut": "Caption file too long; the end is ignored",
    "several": "Several main prompts; only the first is used",
    "plain": "One plain colour",
    "bad profile": "Colour profile ignored: broken, or for another colour mode",
    "duplicate": "The same image more than once",
    "orphan": "Caption files without an image; not used",
    "unread": "Not used: captions are not read from files of this kind",
    "system": "System folders, skipped",
    "link": "Links to files outside the image folders; they are used",
}
"""A heading for each kind of note."""
_ABOUT_THE_SET: tuple[FindingKind, ...] = ("bad profile", "plain", "duplicate", "orphan", "unread", "system")
"""Kinds of notes that are also shown when a run starts."""

OF_ONE_IMAGE: tuple[FindingKind, ...] = (
    "enlarged",
    "wide",
    "animated",
    "file name",
    "no caption",
    "guessed",
    "cut",
    "several",
)
"""Kinds of notes that JSON lists with their image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportOptions:
    """How the dataset would be trained."""

    seed: int
    batch_size: int
    grad_accum: int
    max_epochs: int
    validation_keys: frozenset[str] = frozenset()
    """Keys of the images that are held out for validation."""

    def planner(self, examples: Sequence[Example]) -> EpochPlanner:
        """Return the planner of the epochs."""
        trained = [example for example in examples if example.key not in self.validation_keys]
        return EpochPlanner(trained, seed=self.seed, batch_size=self.batch_size, grad_accum=self.grad_accum)

    def total_steps(self, planner: EpochPlanner) -> int:
        """Return the optimizer steps of all epochs, which differ only if a multiplier is a fraction."""
        if planner.is_same_every_epoch:
            return self.max_epochs * planner.steps(0)
        return sum(planner.steps(epoch) for epoch in range(self.max_epochs))


def as_json(dataset: Dataset, options: ReportOptions) -> dict[str, Any]:
    """Return what the contract says about images, buckets, steps, problems and what stops nothing."""
    texts = _texts_by_key(dataset.notes)
    planner = options.planner(dataset.examples)
    use = planner.buckets(0)
    problems, notes = [*dataset.problems], []
    for note in dataset.notes:
        if note.kind == "sidecar":
            problems.append(note)
        elif note.kind not in OF_ONE_IMAGE:
            notes.append(note)
    return {
        "images": [_image(example, texts.get(example.key, [])) for example in dataset.examples],
        "buckets": [
            {"size": list(size), "images": images, "short": use.get(size, BucketUse()).short}
            for size, images in _images_by_bucket(dataset.examples)
        ],
        "steps_per_epoch": planner.steps(0),
        "total_steps": options.total_steps(planner),
        "problems": list(map(_finding, problems)),
        "notes": list(map(_finding, notes)),
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {"path": finding.path, "what": finding.what, "fix": finding.fix}


def as_text(dataset: Dataset, options: ReportOptions) -> str:
    """Return the same as plain text: counts, buckets, unusable files and notes."""
    planner = options.planner(dataset.examples)
    parts = [
        _count_lines(dataset, options, planner),
        _bucket_lines(dataset, planner),
        _problem_lines(dataset),
        _note_lines(dataset),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def resolution_table() -> str:
    """Return the resolutions and their buckets, at most 100 columns wide; mirrors are implied."""
    lines = ["resolution  sizes (landscape; each also exists in portrait)"]
    for resolution in RESOLUTIONS:
        landscape = [f"{width}x{height}" for width, height in bucket_sizes(resolution) if width >= height]
        start = f"{resolution:>10}  "
        indent = " " * len(start)
        lines += textwrap.wrap(" ".join(landscape), TABLE_COLUMNS, initial_indent=start, subsequent_indent=indent)
    return "\n".join(lines) + "\n"


def batch_notes(planner: EpochPlanner) -> list[str]:
    """Return a note if many batches are short, with the batch size that fills them; otherwise nothing."""
    counts, batch_size = planner.counts(0), planner.batch_size
    if not sum(counts) or _share_filled(counts, batch_size) >= FULL_ENOUGH:
        return []
    mean = _share_filled(counts, batch_size) * batch_size
    better = batch_size - 1
    while _share_filled(counts, better) < FULL_ENOUGH:  # 1 is always full
        better -= 1
    return [
        f"Batches hold {mean:.1f} of {batch_size} images on average: the last batch of each size is short, since no "
        f"image is repeated or left out. For fuller batches, lower batch_size to {better} or add images of the sizes "
        "that have few."
    ]


def _share_filled(counts: Sequence[int], batch_size: int) -> float:
    batches = sum(-(-count // batch_size) for count in counts)
    return sum(counts) / (batches * batch_size)


def _texts_by_key(notes: Iterable[Finding]) -> dict[str, list[str]]:
    """Return what is wrong with each image that is used. A file name as the caption is a choice, not a problem."""
    texts: dict[str, list[str]] = {}
    for note in notes:
        if note.kind != "file name":
            texts.setdefault(f"{note.root}/{note.path}", []).append(f"{note.what} {note.fix}".rstrip())
    return texts


def _image(example: Example, problems: Sequence[str]) -> dict[str, object]:
    return {
        "path": example.name,
        "root": example.root,
        "caption": example.caption,
        "size": list(example.size),
        "bucket": list(example.bucket),
        "crop": list(example.crop),
        "multiply": example.multiply,
        "problems": list(problems),
    }


def _images_by_bucket(examples: Sequence[Example]) -> list[tuple[Size, int]]:
    """Return the buckets in use with their number of images, the fullest first."""
    images = Counter(example.bucket for example in examples)
    return sorted(images.items(), key=lambda item: (-item[1], item[0]))


def _count_lines(dataset: Dataset, options: ReportOptions, planner: EpochPlanner) -> list[str]:
    unusable = len(dataset.problems)
    batches = f"batch size {options.batch_size}"
    if options.grad_accum > 1:
        batches += f" x {options.grad_accum} batches per step"
    steps, total = planner.steps(0), options.total_steps(planner)
    lines = [
        f"{counted(len(dataset.examples), 'image')} can be used, {counted(unusable, 'file')} cannot.",
        f"{counted(steps, 'step')} per epoch ({batches}), {counted(total, 'step')} in "
        f"{counted(options.max_epochs, 'epoch')}.",
    ]
    if not planner.is_same_every_epoch:
        lines.append("Epochs differ slightly in length, since some multipliers are fractions.")
    return lines


def _bucket_lines(dataset: Dataset, planner: EpochPlanner) -> list[str]:
    lines = ["    size      images  batches  last batch"]
    use = planner.buckets(0)
    for (width, height), images in _images_by_bucket(dataset.examples):
        _, batches, short = use.get((width, height), BucketUse())
        last = f"{short} of {planner.batch_size}" if short else "full"
        lines.append(f"{width:>5} x {height:<5} {images:>8,}  {batches:>7,}  {last:>10}")
    return lines


def _problem_lines(dataset: Dataset) -> list[str]:
    if not dataset.problems:
        return []
    heading = f"Unusable files ({len(dataset.problems):,}):"
    return [heading, textwrap.indent("\n".join(_finding_lines(dataset, dataset.problems)), "  ")]


def start_lines(dataset: Dataset) -> list[str]:
    """Return what to know of a dataset when a run starts: caption files with errors, and files that are not used."""
    return [*_sidecar_lines(dataset), *_set_lines(dataset, _ABOUT_THE_SET)]


def _sidecar_lines(dataset: Dataset) -> list[str]:
    """Return what is wrong with caption files and the files for whole folders, a line each."""
    return _finding_lines(dataset, [note for note in dataset.notes if note.kind == "sidecar"])


def _finding_lines(dataset: Dataset, findings: Sequence[Finding]) -> list[str]:
    lines = [f"{_path(dataset, finding)}: {finding.what} {finding.fix}" for finding in findings[:MAX_FILES]]
    if len(findings) > MAX_FILES:
        lines.append(f"and {len(findings) - MAX_FILES:,} more.")
    return lines


def _note_lines(dataset: Dataset) -> list[str]:
    """Return one line for each kind of note, with its count and the first few files."""
    lines = [f"{note.what.capitalize()} {note.fix}" for note in dataset.notes if note.kind == "index"]
    return [*lines, *_sidecar_lines(dataset), *_set_lines(dataset, tuple(HEADINGS))]


def _set_lines(dataset: Dataset, kinds: Sequence[FindingKind]) -> list[str]:
    by_kind: dict[FindingKind, list[Finding]] = {}
    for note in dataset.notes:
        by_kind.setdefault(note.kind, []).append(note)
    lines = []
    for kind in kinds:
        notes = by_kind.get(kind)
        if notes:
            names = first_of([_name(dataset, note) for note in notes], MAX_NAMES)
            lines.append(f"{HEADINGS[kind]} ({len(notes):,}): {names}.")
        if notes and kind == "duplicate":
            lines += map(str, by_kind.get("duplicates", []))
    return lines


def _name(dataset: Dataset, note: Finding) -> str:
    """Return the file's path, and whether its caption file exists but is empty."""
    path = _path(dataset, note)
    if note.kind in ("file name", "no caption") and " is empty" in note.what:
        return f"{path} ({note.what.partition(',')[0].rstrip('.')})"
    return path


def _path(dataset: Dataset, finding: Finding) -> str:
    """Return the file's path, with its root if there are several."""
    path = finding.path or ""
    if len(dataset.roots) == 1:
        return path
    return f"{dataset.roots[finding.root].name}/{path}"
