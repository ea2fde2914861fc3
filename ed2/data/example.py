"""One picture to train on, and a set of them with everything that was found wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ed2.data.buckets import Box, Size, crop_box
from ed2.errors import Problem

Kind = Literal["unusable", "enlarged", "wide", "animated", "guessed", "cut", "file name", "no caption", "index"]
"""What a finding is about: "unusable" leaves a file out, the others are only told."""


@dataclass(frozen=True)
class Finding(Problem):
    """A problem or a note about one file; `path` is relative to the data root number `root`."""

    kind: Kind = "unusable"
    root: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """A picture with its caption and how it is trained."""

    path: Path
    root: int
    """Number of the data root that it was found in."""
    name: str
    """Relative to that root, with forward slashes."""
    caption: str
    size: Size
    """Of the upright picture."""
    bucket: Size
    """The size that it is trained at."""
    flip_p: float = 0.0
    """Probability of a left-right flip."""
    cond_dropout: float = 0.0
    """Probability of an empty caption."""
    multiply: float = 1.0
    """How often it is seen in an epoch; a fraction is met on average."""
    batch_id: str = ""
    loss_scale: float = 1.0

    @property
    def key(self) -> str:
        """What tells it apart from every other picture, the same on every machine."""
        return f"{self.root}/{self.name}"

    @property
    def crop(self) -> Box:
        """What is seen of the upright picture when there is no jitter."""
        return crop_box(self.size, self.bucket)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Every picture that can be used, sorted by root and name, and what was found on the way."""

    roots: tuple[Path, ...]
    examples: tuple[Example, ...]
    problems: tuple[Finding, ...]
    """One for every file that cannot be used."""
    notes: tuple[Finding, ...]
    """What is good to know and leaves no picture out."""
    fingerprint: str
    """SHA-256, hex, over the names, file sizes, times, captions and buckets of `examples`."""
