"""The loss of each image during a run: written into the run's folder, and read to tell what became of an image.

The rule, also in docs/page.md. It looks at one image's measurements, all at the same noise, the first of them before
training, from the third on:

- memorised: the last loss is less than half of the first.
- not learned yet: the last loss is more than 97 % of the first.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ed2.app.reporters.growing import GrowingFile
from ed2.app.run_settings import data_roots
from ed2.events import Event, ImagesMeasured
from ed2.small_files import lines_of, objects_in

IMAGE_LOSSES_FILE = "image_losses.jsonl"
MIN_MEASURED = 3
MEMORISED, UNLEARNED = 0.5, 0.97
"""The last loss as a share of the first."""
MAX_RUNS = 20
"""How many of the newest runs that measured images are searched for one of the same folders."""

ImageProgress = Literal["", "unlearned", "memorised"]


@dataclass
class ImageLossReporter:
    """Appends each measurement to `image_losses.jsonl` of a run's folder, which only a run that measures has.

    The first line names the images; the losses of later lines are in that order, null where there is none.
    """

    run_dir: Path
    _images: Sequence[str] = ()
    _file: GrowingFile = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._file = GrowingFile(self.run_dir / IMAGE_LOSSES_FILE, f"The losses per image {IMAGE_LOSSES_FILE}")

    def __call__(self, event: Event) -> None:
        """Write a measurement. Raises LogWriteError."""
        if not isinstance(event, ImagesMeasured):
            return
        if not event.losses.keys() <= set(self._images):
            self._name_images(event.losses)
        losses = [_as_json(event.losses.get(key)) for key in self._images]
        self._file.write(_line({"step": event.step, "losses": losses}))

    def _name_images(self, measured: Iterable[str]) -> None:
        """Name the images in the first line, or in one more if that of a resumed run lacks any."""
        path, before = self._file.path, list[str]()
        for names, _, _ in _read_lines(path):
            before = names or before
        self._images = sorted({*before, *measured})
        self._file.head = _line({"step": 0, "images": self._images})
        if self._images != before and path.is_file() and path.stat().st_size:
            self._file.write(self._file.head)

    def close(self) -> str:
        """Close the file; says what was lost."""
        return self._file.close()


def _line(values: Mapping[str, object]) -> bytes:
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"{text}\n".encode(errors="backslashreplace")


def _as_json(loss: float | None) -> float | None:
    return float(f"{loss:.4g}") if loss is not None and math.isfinite(loss) else None


@dataclass
class ImageLoss:
    """The loss of one image at fixed noise.

    Attributes:
        first: before training, or where a run was continued in a new folder.
        count: how often it was measured.
    """

    first: float
    last: float
    total: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        """Of all measurements."""
        return self.total / self.count

    @property
    def progress(self) -> ImageProgress:
        """What became of the image, by the rule above; empty for nothing remarkable, or too early to say."""
        if self.count < MIN_MEASURED:
            return ""
        if self.last < MEMORISED * self.first:
            return "memorised"
        return "unlearned" if self.last > UNLEARNED * self.first else ""


@dataclass(frozen=True)
class ImageLosses:
    """What a run measured of its images, by their keys, up to the step of the last measurement."""

    run: str
    step: int
    of: Mapping[str, ImageLoss]


def losses_of_images(logdir: Path, roots: Sequence[Path]) -> ImageLosses | None:
    """What the newest run below `logdir` that trained on these folders and measured its images found; None if none."""
    files = sorted(logdir.glob(f"*/{IMAGE_LOSSES_FILE}"), key=_modified, reverse=True)
    for file in files[:MAX_RUNS]:
        if data_roots(file.parent) == tuple(roots):
            return _read(file, _modified(file))
    return None


def _modified(file: Path) -> tuple[int, int]:
    with suppress(OSError):
        status = file.stat()
        return status.st_mtime_ns, status.st_size
    return 0, 0


@lru_cache(maxsize=4)
def _read(file: Path, written: tuple[int, int]) -> ImageLosses:
    """Read a run's measurements, once for each time and size of their file. Raises OSError."""
    found: dict[str, ImageLoss] = {}
    images, last_step = list[str](), 0
    for names, step, losses in _read_lines(file):
        images, last_step = names or images, max(last_step, step)
        for key, loss in zip(images, losses, strict=False):
            if isinstance(loss, int | float) and math.isfinite(loss):
                one = found.setdefault(key, ImageLoss(loss, loss))
                one.last, one.total, one.count = loss, one.total + loss, one.count + 1
    return ImageLosses(file.parent.name, last_step, found)


def _read_lines(path: Path) -> Iterator[tuple[list[str], int, list[Any]]]:
    """The images that each line names, its step and its losses; lines that are torn are skipped."""
    with suppress(OSError):
        for entry in objects_in(lines_of(path)):
            names, step, losses = entry.get("images", []), entry.get("step"), entry.get("losses", [])
            if isinstance(names, list) and isinstance(losses, list) and isinstance(step, int):
                yield [name for name in names if isinstance(name, str)], step, losses
