"""One showing of an image: its pixels, cropped to its bucket and maybe flipped, as its draws say.

Without torch; `loader` puts showings together into batches.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ed2.data.buckets import Box, Size, crop_box, jittered_box
from ed2.data.example import Example, stamp_of
from ed2.data.images import JPEG_SHRINKS, WHITE, decode
from ed2.draws import rng


class VisitKey(NamedTuple):
    """What the draws of one showing of an image are keyed by: `rng(seed, "noise", *visit_key)`."""

    epoch: int
    key: str
    repeat: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderOptions:
    """How images are dealt and loaded."""

    seed: int
    batch_size: int
    grad_accum: int = 1
    threads: int = 2
    ahead: int = 4
    """Batches that are decoded before they are asked for, at most."""
    jitter: bool = True
    """Whether crops differ a little from visit to visit; off for validation."""
    keep_tags: int = 0
    """How many tags stay in their place where tags are shuffled."""
    background: str = WHITE
    """What shows through where an image is transparent."""


def load_pixels(example: Example, visit: VisitKey, options: LoaderOptions) -> NDArray[np.uint8]:
    """Return one showing of an image: cropped, in the size of its bucket, maybe flipped; uint8 (H, W, 3).

    Raises:
        ImageError: the image can no longer be read.
    """
    box = crop_box(example.size, example.bucket)
    if options.jitter:
        box = jittered_box(example.size, example.bucket, rng(options.seed, "crop", *visit))
    image = decode(example.path, _size_needed(example, box), options.background)
    image = image.resize(example.bucket, Image.Resampling.LANCZOS, box=_box_in(image.size, example, box))
    if happens(example.flip_p, options.seed, "flip", visit):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def _size_needed(example: Example, box: Box) -> Size:
    """Return how large the whole image must be for `box` in it to fill the bucket without being enlarged."""
    left, top, right, bottom = box
    width, height = example.size
    return math.ceil(width * example.bucket[0] / (right - left)), math.ceil(height * example.bucket[1] / (bottom - top))


def _box_in(decoded: Size, example: Example, box: Box) -> tuple[float, float, float, float]:
    """Return where `box` lies in an image decoded smaller, or in another image that has taken its place."""
    for shrink in JPEG_SHRINKS:
        if decoded == tuple(-(-side // shrink) for side in example.size):
            left, top, right, bottom = box
            return left / shrink, top / shrink, right / shrink, bottom / shrink
    return crop_box(decoded, example.bucket)


def happens(probability: float, seed: int, what: str, visit: VisitKey) -> bool:
    """Draw whether something happens to one showing of an image."""
    return probability > 0 and bool(rng(seed, what, *visit).random() < probability)


def is_changed(example: Example) -> bool:
    """Tell whether the file of an image is another than the one that was read at the start."""
    try:
        return example.stamp is not None and stamp_of(example.path.stat()) != example.stamp
    except OSError:  # gone since it was decoded: told at its next showing
        return False
