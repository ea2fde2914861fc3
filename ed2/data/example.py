"""One image to train on, and a set of them with everything that was found wrong."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ed2.data.buckets import Box, Size, crop_box
from ed2.data.tags import Shuffle
from ed2.errors import Problem

Kind = Literal[
    "unusable", "enlarged", "wide", "animated", "guessed", "cut", "several",
    "file name", "no caption", "side-car", "index", "changed",
]  # fmt: skip
"""What a finding is about: "unusable" leaves a file out, the others are only told."""


@dataclass(frozen=True)
class Finding(Problem):
    """A problem or a note about one file; `path` is relative to the data root number `root`."""

    kind: Kind = "unusable"
    root: int = 0
    file: Path | None = None
    """In full, where it is told while a run goes on."""


def stamp_of(status: os.stat_result) -> int:
    """Return what tells that a file is still the one that was read: time and size, in one number to spare memory."""
    return status.st_mtime_ns << 40 | status.st_size


@dataclass(frozen=True, slots=True)
class Example:
    """An image with its caption and how it is trained."""

    path: Path
    root: int
    """Number of the data root that it was found in."""
    name: str
    """Relative to that root, with forward slashes."""
    caption: str
    """With all its tags in their order; drawn anew at each visit where `shuffle` says how."""
    size: Size
    """Of the upright image."""
    bucket: Size
    """The size that it is trained at."""
    flip_p: float = 0.0
    """Probability of a left-right flip."""
    cond_dropout: float = 0.0
    """Probability of an empty caption."""
    multiply: float = 1.0
    """How often it is seen in an epoch; a fraction is met on average."""
    batch_id: str = ""
    """Images of one named id are trained together in the batches of one optimizer step; empty is no id."""
    loss_scale: float = 1.0
    shuffle: Shuffle | None = None
    entry: int = 0
    """Tells the entries of a manifest apart that name the same image."""
    stamp: int | None = None
    """Of the file that was read; None where it is not known."""

    @property
    def key(self) -> str:
        """What tells it apart from every other image, the same on every machine."""
        return f"{self.root}/{self.name}" + (f"#{self.entry}" if self.entry else "")

    def caption_at(self, generator: Callable[[], np.random.Generator], keep_tags: int) -> str:
        """Return the caption of one visit; `generator` gives the draws of that visit where any are needed."""
        return self.shuffle.drawn(generator(), keep_tags) if self.shuffle else self.caption

    @property
    def crop(self) -> Box:
        """What is seen of the upright image when there is no jitter."""
        return crop_box(self.size, self.bucket)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Every image that can be used, sorted by root and name, and what was found on the way."""

    roots: tuple[Path, ...]
    examples: tuple[Example, ...]
    problems: tuple[Finding, ...]
    """One for every file that cannot be used."""
    notes: tuple[Finding, ...]
    """What is good to know and leaves no image out."""
    fingerprint: str
    """SHA-256, hex, over the names, contents, captions and buckets of `examples`; of use where all were read."""
    num_unread: int = 0
    """Images of which only the header was read: some may turn out to be damaged."""
