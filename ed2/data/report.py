"""What a check says about a dataset, for programs and for people."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ed2.data.buckets import Size, lost, nearest, sizes
from ed2.data.epoch import Planner
from ed2.data.example import Dataset, Example, Finding, Kind
from ed2.settings.schema import RESOLUTIONS
from ed2.text import counted

MAX_TOLD = 20
"""How many unusable files the text names; the rest are counted."""
TABLE_COLUMNS = 100
MAX_NOTES_TOLD = 3
"""How many files the text names of each kind of note."""

HEADINGS: Mapping[Kind, str] = {
    "enlarged": "Enlarged, since smaller than the bucket",
    "wide": "Cut at both ends, since longer than the longest bucket",
    "animated": "Several frames, of which the first is used",
    "file name": "Caption taken from the file name",
    "no caption": "No caption at all",
    "guessed": "Text not UTF-8, read as UTF-16 or Western European",
    "cut": "Caption file too long, the end left out",
    "several": "More than one main prompt, of which the first is used",
}
"""What each kind of note is called for people."""

_TABLE_RATIOS: tuple[Size, ...] = ((4, 3), (3, 2), (16, 9))
_TABLE_SCALE = 4096
"""Makes an image of a ratio large enough that rounding to whole pixels does not show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """How the dataset would be trained."""

    seed: int
    batch_size: int
    grad_accum: int
    max_epochs: int
    kept_apart: frozenset[str] = frozenset()
    """Keys of the images that are kept for validation."""

    def planner(self, examples: Sequence[Example]) -> Planner:
        """Return what deals the epochs."""
        trained = [example for example in examples if example.key not in self.kept_apart]
        return Planner(trained, seed=self.seed, batch_size=self.batch_size, grad_accum=self.grad_accum)

    def total_steps(self, planner: Planner) -> int:
        """Return the optimizer steps of all epochs, which differ only where a multiplier is a fraction."""
        if planner.is_same_every_epoch:
            return self.max_epochs * planner.steps(0)
        return sum(planner.steps(epoch) for epoch in range(self.max_epochs))


def as_json(dataset: Dataset, plan: RunPlan) -> dict[str, Any]:
    """Return what the contract says of images, buckets, steps and problems."""
    problems_of = _texts_by_key(dataset.notes)
    planner = plan.planner(dataset.examples)
    told = (note for note in dataset.notes if note.path is None or note.kind == "side-car")
    unusable = [*dataset.problems, *told]
    return {
        "images": [_image(example, problems_of.get(example.key, [])) for example in dataset.examples],
        "buckets": [
            {"size": list(bucket.size), "images": bucket.images, "short": bucket.short}
            for bucket in _buckets(dataset.examples, planner)
        ],
        "steps_per_epoch": planner.steps(0),
        "total_steps": plan.total_steps(planner),
        "problems": [{"path": finding.path, "what": finding.what, "fix": finding.fix} for finding in unusable],
    }


def as_text(dataset: Dataset, plan: RunPlan) -> str:
    """Return the same for people: counts, buckets, what cannot be used, and notes, in lines of plain text."""
    parts = [
        _counts(dataset, plan),
        _bucket_lines(dataset, plan),
        _problem_lines(dataset),
        _note_lines(dataset),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def resolution_table() -> str:
    """Return the resolutions and their buckets, at most 100 columns wide; mirrors are implied."""
    lines = ["resolution  sizes (each wide one also upright)"]
    for resolution in RESOLUTIONS:
        wide = [f"{width}x{height}" for width, height in sizes(resolution) if width >= height]
        lines += _wrapped(f"{resolution:>10}  ", wide)
    return "\n".join(lines) + "\n"


def buckets_page() -> str:
    """Return the page of the documentation on sizes, as Markdown."""
    head = (
        "# Sizes\n\nMade by `python scripts/make_docs` from the rule in `ed2/data/buckets.py`; do not edit by hand.\n\n"
    )
    rule = (
        "An image is trained in its own shape, in the size of its resolution that is nearest in shape. All sides\n"
        "are multiples of 64, and every size holds at most resolution x resolution pixels. What does not fit the\n"
        "shape is cut at the two ends. Below 256, which only tiny models like that of the demo take, they are\n"
        "multiples of 16.\n\n"
    )
    lost_head = "\n## What a common image loses\n\n"
    return f"{head}{rule}```\n{resolution_table()}```\n{lost_head}{loss_table()}"


def loss_table() -> str:
    """Return, as a Markdown table, what part of a 4:3, 3:2 and 16:9 image each resolution cuts off."""
    heads = [f"{width}:{height}" for width, height in _TABLE_RATIOS]
    lines = [f"| resolution | {' | '.join(heads)} |", "|---:|" + "---:|" * len(heads)]
    for resolution in RESOLUTIONS:
        shares = []
        for width, height in _TABLE_RATIOS:
            image = (width * _TABLE_SCALE, height * _TABLE_SCALE)
            shares.append(f"{lost(image, nearest(image, resolution)):.1%}")
        lines.append(f"| {resolution} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def _texts_by_key(notes: Iterable[Finding]) -> dict[str, list[str]]:
    """Return what is wrong with each image that is used. A file name as the caption is a choice, not a fault."""
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


@dataclass(frozen=True, slots=True)
class _Bucket:
    size: Size
    images: int
    batches: int
    short: int
    """Images in the last batch where that is not full, else 0; batch ids have a last batch each."""


def _buckets(examples: Sequence[Example], planner: Planner) -> list[_Bucket]:
    """Return the buckets in use, the fullest first."""
    images = Counter(example.bucket for example in examples)
    planned = planner.buckets(0)
    return [
        _Bucket(size, images[size], *planned.get(size, (0, 0, 0))[1:])
        for size in sorted(images, key=lambda size: (-images[size], size))
    ]


def _counts(dataset: Dataset, plan: RunPlan) -> list[str]:
    images, unusable = len(dataset.examples), len(dataset.problems)
    planner = plan.planner(dataset.examples)
    steps, total = planner.steps(0), plan.total_steps(planner)
    accumulated = f" x {plan.grad_accum} batches a step" if plan.grad_accum > 1 else ""
    lines = [
        f"{counted(images, 'image')} can be used, {counted(unusable, 'file')} cannot.",
        f"{counted(steps, 'step')} an epoch (batch size {plan.batch_size}{accumulated}), "
        f"{counted(total, 'step')} in {counted(plan.max_epochs, 'epoch')}.",
    ]
    if not planner.is_same_every_epoch:
        lines.append("Epochs differ a little in length, since some multipliers are fractions.")
    return lines


def _bucket_lines(dataset: Dataset, plan: RunPlan) -> list[str]:
    lines = ["    size      images  batches  last batch"]
    for bucket in _buckets(dataset.examples, plan.planner(dataset.examples)):
        size = f"{bucket.size[0]:>5} x {bucket.size[1]:<5}"
        last = f"{bucket.short} of {plan.batch_size}" if bucket.short else "full"
        lines.append(f"{size} {bucket.images:>8,}  {bucket.batches:>7,}  {last:>10}")
    return lines


def _problem_lines(dataset: Dataset) -> list[str]:
    if not dataset.problems:
        return []
    told = [f"  {_where(dataset, finding)}: {finding.what} {finding.fix}" for finding in dataset.problems[:MAX_TOLD]]
    more = [f"  and {len(dataset.problems) - MAX_TOLD:,} more."] if len(dataset.problems) > MAX_TOLD else []
    return [f"Cannot be used ({len(dataset.problems):,}):", *told, *more]


def _note_lines(dataset: Dataset) -> list[str]:
    """Return one line for each kind of note, with its count and the first few files."""
    lines = [f"{note.what.capitalize()} {note.fix}" for note in dataset.notes if note.kind == "index"]
    lines += side_car_lines(dataset)
    for kind, heading in HEADINGS.items():
        notes = [note for note in dataset.notes if note.kind == kind]
        if notes:
            names = ", ".join(_named(dataset, note) for note in notes[:MAX_NOTES_TOLD])
            lines.append(f"{heading} ({len(notes):,}): {names}{_rest(len(notes))}")
    return lines


def _named(dataset: Dataset, note: Finding) -> str:
    """Return the file's path, and of a caption file that is there and empty that it is."""
    is_empty = note.kind in ("file name", "no caption") and " is empty" in note.what
    return _where(dataset, note) + (f" ({note.what.partition(',')[0].rstrip('.')})" if is_empty else "")


def side_car_lines(dataset: Dataset) -> list[str]:
    """Return what could not be understood in the files that say how images are trained, a line each."""
    notes = [note for note in dataset.notes if note.kind == "side-car"]
    lines = [f"{_where(dataset, note)}: {note.what} {note.fix}" for note in notes[:MAX_TOLD]]
    return lines + ([f"and {len(notes) - MAX_TOLD:,} more such files."] if len(notes) > MAX_TOLD else [])


def _rest(count: int) -> str:
    return f" and {count - MAX_NOTES_TOLD:,} more." if count > MAX_NOTES_TOLD else "."


def _where(dataset: Dataset, finding: Finding) -> str:
    """Return the file's path, with its root where there are several."""
    path = finding.path or ""
    return f"{dataset.roots[finding.root].name}/{path}" if len(dataset.roots) > 1 else path


def _wrapped(start: str, words: Sequence[str]) -> list[str]:
    """Return the words in lines of at most 100 columns; lines after the first are indented like `start`."""
    lines = textwrap.wrap(" ".join(words), TABLE_COLUMNS - len(start))
    return [(start if number == 0 else " " * len(start)) + line for number, line in enumerate(lines)]
