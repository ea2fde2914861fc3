"""An image to train on, and a dataset of them with everything found wrong with it."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ed2.data.buckets import Box, Size, crop_box
from ed2.data.image_config import TagShuffle
from ed2.errors import Problem

FindingKind = Literal[
    "unusable",
    "enlarged",
    "wide",
    "animated",
    "guessed",
    "cut",
    "several",
    "file name",
    "no caption",
    "sidecar",
    "index",
    "changed",
    "plain",
    "bad profile",
    "duplicate",
    "duplicates",
    "orphan",
    "unread",
    "system",
    "link",
]
"""The kinds of findings: "unusable" leaves a file out, the others are only reported."""


@dataclass(frozen=True)
class Finding(Problem):
    """A problem or a note about one file; `path` is relative to the data root with index `root`."""

    kind: FindingKind = "unusable"
    root: int = 0
    file: Path | None = None
    """The full path, if reported during a run."""


def file_stamp(status: os.stat_result) -> int:
    """Return a number that changes with the file: its time and size, in one number to save memory."""
    return status.st_mtime_ns << 40 | status.st_size


@dataclass(frozen=True, slots=True)
class Example:
    """An image with its caption and how it is trained."""

    path: Path
    root: int
    """Index of the data root that it was found in."""
    name: str
    """Relative to that root, with forward slashes."""
    caption: str
    """With all tags in order; `shuffle` draws a different order at each visit."""
    size: Size
    """Of the upright image."""
    bucket: Size
    """The size that it is trained at."""
    flip_p: float = 0.0
    """Probability of a left-right flip."""
    cond_dropout: float = 0.0
    """Probability of an empty caption."""
    multiply: float = 1.0
    """Visits in an epoch; a fraction is reached over several epochs."""
    batch_id: str = ""
    """Images with the same id are trained together, in one optimizer step if possible; empty means no id."""
    loss_scale: float = 1.0
    shuffle: TagShuffle | None = None
    entry: int = 0
    """Distinguishes manifest entries for the same image."""
    stamp: int | None = None
    """`file_stamp` of the file that was read; None if unknown."""
    digest: str = field(default="", compare=False)
    """Of the file's content; empty if only its header was read."""

    @property
    def key(self) -> str:
        """Identifies the image in the dataset, the same on every machine."""
        key = f"{self.root}/{self.name}"
        if self.entry:
            key += f"#{self.entry}"
        return key

    def caption_at(self, generator: Callable[[], np.random.Generator], keep_tags: int) -> str:
        """Return the caption of one visit; `generator` is only called if something has to be drawn."""
        if self.shuffle is None:
            return self.caption
        return self.shuffle.draw(generator(), keep_tags)

    @property
    def crop(self) -> Box:
        """The part of the upright image that is used without jitter."""
        return crop_box(self.size, self.bucket)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Every usable image, sorted by root and name, and everything found along the way."""

    roots: tuple[Path, ...]
    examples: tuple[Example, ...]
    problems: tuple[Finding, ...]
    """One for every file that cannot be used."""
    notes: tuple[Finding, ...]
    """Worth knowing; no image is left out for it."""
    fingerprint: str
    """SHA-256, hex, over the names, contents, captions and buckets of `examples`; empty unless all were read in full.
    That of a run that began with headers alone is a `quick_fingerprint`."""
    num_unread: int = 0
    """Images of which only the header was read: some may turn out to be damaged."""

    @property
    def left_out(self) -> frozenset[str]:
        """The files that cannot be used, by root and name."""
        return frozenset(f"{problem.root}/{problem.path}" for problem in self.problems)
