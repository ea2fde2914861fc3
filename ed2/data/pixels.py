"""The pixels of one visit of an image: cropped to its bucket and maybe flipped, as drawn for that visit.

Free of torch; `loader` combines visits into batches.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ed2.data.buckets import Box, Size, crop_box, jittered_crop_box
from ed2.data.example import Example, file_stamp
from ed2.data.images import JPEG_SHRINKS, WHITE, check_image, decode
from ed2.draws import rng
from ed2.errors import ImagesLostError, Problem

MAX_CHECKED = 200
"""How many images, spread over the dataset, are tried before all count as lost; more would take long."""


class VisitKey(NamedTuple):
    """The key of all draws for one visit of an image: `rng(seed, "noise", *visit_key)`."""

    epoch: int
    key: str
    repeat: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderOptions:
    """How images are batched and loaded."""

    seed: int
    batch_size: int
    grad_accum: int = 1
    threads: int = 2
    ahead: int = 4
    """Most batches that are decoded in advance."""
    jitter: bool = True
    """Whether crops differ a little from visit to visit; off for validation."""
    keep_tags: int = 0
    """How many tags keep their place when tags are shuffled."""
    background: str = WHITE
    """Colour behind transparent images."""


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """One visit of an image, ready for a batch."""

    pixels: NDArray[np.uint8]
    """(H, W, 3)"""
    crop: tuple[int, int]
    """Pixels cut off at the top and at the left of the image as resized; of a mirrored one, as it is seen."""


def load_image(example: Example, visit: VisitKey, options: LoaderOptions) -> LoadedImage:
    """Return one visit of an image: cropped, resized to its bucket, maybe flipped.

    Raises:
        ImageError: the image can no longer be read.
    """
    box = crop_box(example.size, example.bucket)
    if options.jitter:
        box = jittered_crop_box(example.size, example.bucket, rng(options.seed, "crop", *visit))
    image = decode(example.path, _size_needed(example, box), options.background)
    image = image.resize(example.bucket, Image.Resampling.LANCZOS, box=_box_in(image.size, example, box))
    is_mirrored = happens(example.flip_p, options.seed, "flip", visit)
    if is_mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return LoadedImage(np.asarray(image), crop_offset(example.size, box, example.bucket, is_mirrored=is_mirrored))


def crop_offset(size: Size, box: Box, bucket: Size, *, is_mirrored: bool) -> tuple[int, int]:
    """Return where a crop begins, as top and left, in pixels of the image as resized for `box` to fill `bucket`.

    Args:
        size: of the image.
        box: the crop, in pixels of the image.
        bucket: size of the crop after resizing.
        is_mirrored: the left is then counted from the right edge of the image, which is seen on the left.
    """
    left, top, right, bottom = box
    start = size[0] - right if is_mirrored else left
    return round(top * bucket[1] / (bottom - top)), round(start * bucket[0] / (right - left))


def _size_needed(example: Example, box: Box) -> Size:
    """Return how large the whole image must be for `box` in it to fill the bucket without enlarging."""
    left, top, right, bottom = box
    width, height = example.size
    return math.ceil(width * example.bucket[0] / (right - left)), math.ceil(height * example.bucket[1] / (bottom - top))


def _box_in(decoded: Size, example: Example, box: Box) -> tuple[float, float, float, float]:
    """Return `box` in the coordinates of an image decoded smaller, or a crop of another image that replaced it."""
    for shrink in JPEG_SHRINKS:
        if decoded == tuple(-(-side // shrink) for side in example.size):
            left, top, right, bottom = box
            return left / shrink, top / shrink, right / shrink, bottom / shrink
    return crop_box(decoded, example.bucket)


def happens(probability: float, seed: int, what: str, visit: VisitKey) -> bool:
    """Draw whether something happens to one visit of an image."""
    return probability > 0 and bool(rng(seed, what, *visit).random() < probability)


def is_changed(example: Example) -> bool:
    """Tell whether the file of an image has changed since the run started."""
    try:
        return example.stamp is not None and file_stamp(example.path.stat()) != example.stamp
    except OSError:  # gone since it was decoded: reported at its next visit
        return False


def require_readable(examples: Sequence[Example]) -> None:
    """Check that at least one of the images can be read; a removed drive or a moved folder takes all at once.

    Raises:
        ImagesLostError: names the folders, and what is wrong with the first image.
    """
    used = [example for example in examples if example.multiply > 0]
    first: Problem | None = None
    for example in used[:: max(1, len(used) // MAX_CHECKED)]:
        problem = check_image(example.path).problem
        if problem is None:
            return
        first = first or Problem(example.name, problem.what)
    raise ImagesLostError(
        f"None of the {len(used):,} images in {' and '.join(_folders(used))} can be read any more",
        f"{first} Was the drive disconnected or the folder moved?",
        "Put the images back and resume the run: no training is lost.",
    )


def _folders(examples: Sequence[Example]) -> list[str]:
    """Return the common folder of the images of each data root."""
    parents: dict[int, list[str]] = {}
    for example in examples:
        parents.setdefault(example.root, []).append(str(example.path.parent))
    return [_common_path(found) for _, found in sorted(parents.items())]


def _common_path(folders: Sequence[str]) -> str:
    try:
        return os.path.commonpath(folders)
    except ValueError:  # a manifest may list images on several drives
        return folders[0]
