"""The pixels of one visit of an image: cropped to its bucket and maybe flipped, as drawn for that visit.

Free of torch; `loader` combines visits into batches.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ed2.data.buckets import Box, Size, crop_box
from ed2.data.example import Example, file_stamp
from ed2.data.full_reads import FullReads
from ed2.data.images import JPEG_SHRINKS, WHITE, check_image, decode
from ed2.data.variants import Crop, VisitKey, chosen_crop, drawn_crop
from ed2.errors import ImagesLostError, Problem

MAX_CHECKED = 200
"""How many images, spread over the dataset, are tried before all count as lost; more would take long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderOptions:
    """How images are batched and loaded."""

    seed: int
    batch_size: int
    grad_accum: int = 1
    threads: int = 2
    ahead: int = 4
    """Most batches that are decoded in advance."""
    one_each: bool = False
    """Whether each of several processes gets at most one batch in a step."""
    jitter: bool = True
    """Whether crops differ a little from visit to visit; off for validation."""
    num_variants: int = 0
    """Fixed crops of an image that its visits are drawn among, with a latent cache; 0 draws each crop anew."""
    keep_tags: int = 0
    """How many tags keep their place when tags are shuffled."""
    background: str = WHITE
    """Colour behind transparent images."""
    pinned: bool = False
    """Whether a GPU copies the pixels while it computes, which takes memory that is never swapped out."""
    reads: FullReads | None = None
    """Checks and remembers each image at its first full read; None decodes only."""


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """One visit of an image, ready for a batch."""

    pixels: NDArray[np.uint8]
    """(H, W, 3)"""
    crop: tuple[int, int]
    """Pixels cut off at the top and at the left of the image as resized; of a mirrored one, as it is seen."""


def crop_of(example: Example, visit: VisitKey, options: LoaderOptions) -> Crop:
    """Draw the crop of one visit of an image.

    Raises:
        OSError: it is one of the fixed ones, and the content of the image is neither known nor readable.
    """
    if options.num_variants:
        return chosen_crop(example, visit, seed=options.seed, count=options.num_variants)
    return drawn_crop(example, visit, seed=options.seed, jitter=options.jitter)


def load_image(example: Example, visit: VisitKey, options: LoaderOptions) -> LoadedImage:
    """Return one visit of an image: cropped, resized to its bucket, maybe flipped.

    Raises:
        ImageError: the image can no longer be read.
    """
    [image] = load_crops(example, [crop_of(example, visit, options)], options.background, options.reads)
    return image


def load_crops(example: Example, crops: Sequence[Crop], background: str, reads: FullReads | None) -> list[LoadedImage]:
    """Return crops of an image, each resized to its bucket. The file is decoded once for all that need the same size.

    Args:
        example: the image.
        crops: the parts of it.
        background: colour behind a transparent image.
        reads: checks and remembers it at its first full read; None decodes only.

    Raises:
        ImageError: the image can no longer be read.
    """
    decoded: dict[int, Image.Image] = {}
    loaded = []
    for crop in crops:
        needed = _size_needed(example, crop.box)
        shrink = _shrink_for(example.size, needed)
        if shrink not in decoded:
            if reads:
                decoded[shrink] = reads.decode(example, needed, background)
            else:
                decoded[shrink] = decode(example.path, needed, background)
        loaded.append(_cropped(decoded[shrink], example, crop))
    return loaded


def _shrink_for(size: Size, needed: Size) -> int:
    """Return how many times smaller a JPEG of `size` is decoded where `needed` is enough, as Pillow chooses it."""
    most = min(size[0] // needed[0], size[1] // needed[1])
    return max((shrink for shrink in JPEG_SHRINKS if shrink <= most), default=1)


def _cropped(whole: Image.Image, example: Example, crop: Crop) -> LoadedImage:
    image = whole.resize(example.bucket, Image.Resampling.LANCZOS, box=_box_in(whole.size, example, crop.box))
    if crop.is_mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return LoadedImage(np.asarray(image), crop_offset(example.size, crop, example.bucket))


def crop_offset(size: Size, crop: Crop, bucket: Size) -> tuple[int, int]:
    """Return where a crop begins, as top and left, in pixels of the image as resized for the crop to fill `bucket`.

    Args:
        size: of the image.
        crop: of a mirrored one, the left is counted from the right edge of the image, which is seen on the left.
        bucket: size of the crop after resizing.
    """
    left, top, right, bottom = crop.box
    start = size[0] - right if crop.is_mirrored else left
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
