"""The sizes that images are trained at, which one an image gets, and how it is cropped.

All sizes of a resolution have about the same number of pixels, so that every batch costs the same.
"""

import math
from functools import cache, lru_cache

import numpy as np

from ed2.settings.schema import RESOLUTIONS, SMALL_RESOLUTIONS

Size = tuple[int, int]
"""Width and height in pixels."""
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are just outside."""

WIDEST_RATIO = 4
JITTER = 0.02
"""The most that jitter crops at each side of an image, as a fraction of its short side."""


def side_step(resolution: int) -> int:
    """Return the number that both sides of every bucket of `resolution` are multiples of.

    A crop whose short side has fewer pixels has too little detail to train on.
    """
    if resolution < RESOLUTIONS[0]:
        return 16
    return 64


@cache
def bucket_sizes(resolution: int) -> tuple[Size, ...]:
    """Return the buckets of `resolution`: the square, then ever wider sizes, each followed by its mirror.

    For each short side s the long side l is the largest multiple of the step with s * l <= resolution ** 2, and the
    size exists if s <= l <= 4 s.
    """
    if resolution not in RESOLUTIONS + SMALL_RESOLUTIONS:
        raise ValueError(f"resolution is {resolution}: it must be one of {SMALL_RESOLUTIONS + RESOLUTIONS}")
    step = side_step(resolution)
    found: list[Size] = []
    for short in range(resolution, 0, -step):
        long = resolution * resolution // short // step * step
        if short == long:
            found.append((long, short))
        elif long <= WIDEST_RATIO * short:
            found += [(long, short), (short, long)]
    return tuple(found)


@cache
def _log_ratios(resolution: int) -> tuple[tuple[float, Size], ...]:
    return tuple((math.log(width / height), (width, height)) for width, height in bucket_sizes(resolution))


@lru_cache(maxsize=1 << 14)  # most datasets have few different sizes
def nearest_bucket(size: Size, resolution: int) -> Size:
    """Return the bucket nearest in ratio to an image of `size`; on a tie the one that crops less."""
    ratio = math.log(size[0] / size[1])
    distances = [(abs(ratio - log_ratio), bucket) for log_ratio, bucket in _log_ratios(resolution)]
    best = min(distances)[0]
    # Rounding in the logarithms is about 1e-16, real differences are far larger.
    ties = [bucket for distance, bucket in distances if distance <= best + 1e-12]
    return min(ties, key=lambda bucket: (cropped_share(size, bucket), -bucket[0] * bucket[1]))


def is_beyond_widest_bucket(size: Size, resolution: int) -> bool:
    """Tell whether an image of `size` is wider or taller than every bucket of `resolution`."""
    long, short = bucket_sizes(resolution)[-2]  # sizes get wider, and each comes before its mirror
    return max(size) * short > min(size) * long


def cropped_share(size: Size, bucket: Size) -> float:
    """Return the share of the area of an image of `size`, 0 to 1, that is cropped away for `bucket`."""
    width, height = _largest_crop(size, bucket)
    return 1 - width * height / (size[0] * size[1])


def _largest_crop(size: Size, bucket: Size) -> Size:
    """Return the largest size inside `size` with the bucket's ratio, within a pixel."""
    width, height = size
    if width * bucket[1] > height * bucket[0]:
        return min(width, max(1, round(height * bucket[0] / bucket[1]))), height
    return width, min(height, max(1, round(width * bucket[1] / bucket[0])))


def crop_box(size: Size, bucket: Size) -> Box:
    """Return the centred crop of an image of `size` with the bucket's ratio, within a pixel."""
    width, height = _largest_crop(size, bucket)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def needs_enlarging(size: Size, bucket: Size) -> bool:
    """Tell whether an image of `size` has to be enlarged to fill `bucket`."""
    width, height = _largest_crop(size, bucket)
    return width < bucket[0] or height < bucket[1]


def jittered_crop_box(size: Size, bucket: Size, generator: np.random.Generator) -> Box:
    """Return a crop that differs a little from visit to visit.

    Up to 2 % of the short side is cut off at each side, but at least the bucket's size is left. What is then too long
    for the bucket's ratio is cropped at a position drawn from a triangular distribution around the middle. An image
    that is not larger than the bucket is cropped at its centre.
    """
    widest_cut = int(min(size) * JITTER)
    cut_x = max(0, min(widest_cut, (size[0] - bucket[0]) // 2))
    cut_y = max(0, min(widest_cut, (size[1] - bucket[1]) // 2))
    if not cut_x or not cut_y:
        return crop_box(size, bucket)
    left, right = generator.integers(0, cut_x, 2, endpoint=True).tolist()
    top, bottom = generator.integers(0, cut_y, 2, endpoint=True).tolist()
    inner = (size[0] - left - right, size[1] - top - bottom)
    width, height = _largest_crop(inner, bucket)
    x = left + _triangular(inner[0] - width, generator)
    y = top + _triangular(inner[1] - height, generator)
    return x, y, x + width, y + height


def _triangular(excess: int, generator: np.random.Generator) -> int:
    if not excess:
        return 0
    return round(generator.triangular(0, excess / 2, excess))
