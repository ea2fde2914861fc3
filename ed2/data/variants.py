"""The crops of an image: drawn anew for each visit, or among a few fixed ones, whose latents can be cached.

Fixed ones depend on the content of the image and its bucket alone, so runs with other seeds and folders share them.
Free of torch.
"""

from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ed2.data.buckets import Box, crop_box, jittered_crop_box
from ed2.data.example import Example
from ed2.data.images import DIGEST_LENGTH
from ed2.disk import sha256_of
from ed2.draws import key_of, rng

KEY_BYTES = 16
"""Of the key of a row in a cache: 128 bits, so that no two are the same by chance."""


class VisitKey(NamedTuple):
    """The key of all draws for one visit of an image: `rng(seed, "noise", *visit_key)`."""

    epoch: int
    key: str
    repeat: int


class Crop(NamedTuple):
    """The part of an image that is shown, in pixels of the upright image, and whether it is mirrored."""

    box: Box
    is_mirrored: bool


def happens(probability: float, seed: int, what: str, visit: VisitKey) -> bool:
    """Draw whether something happens to one visit of an image."""
    return probability > 0 and bool(rng(seed, what, *visit).random() < probability)


def fixed_crops(example: Example, count: int) -> list[Crop]:
    """Return the fixed crops of an image: the first is centred, the last `round(count * flip_p)` are mirrored.

    Raises:
        OSError: the content of the image is unknown, and its file cannot be read.
    """
    num_mirrored = round(count * example.flip_p)
    boxes = [crop_box(example.size, example.bucket)]
    if count > 1:
        generator = _generator_of(example)
        boxes += [jittered_crop_box(example.size, example.bucket, generator) for _ in range(count - 1)]
    return [Crop(box, place >= count - num_mirrored) for place, box in enumerate(boxes)]


def drawn_crop(example: Example, visit: VisitKey, *, seed: int, jitter: bool) -> Crop:
    """Draw the crop of one visit, independent of all others."""
    box = crop_box(example.size, example.bucket)
    if jitter:
        box = jittered_crop_box(example.size, example.bucket, rng(seed, "crop", *visit))
    return Crop(box, happens(example.flip_p, seed, "flip", visit))


def chosen_crop(example: Example, visit: VisitKey, *, seed: int, count: int) -> Crop:
    """Draw one of the `count` fixed crops for one visit. Raises OSError as `fixed_crops` does."""
    place = int(rng(seed, "variant", *visit).integers(count)) if count > 1 else 0
    return fixed_crops(example, count)[place]


def latent_key(example: Example, crop: Crop) -> bytes:
    """Return the key of a crop's latents among those of one VAE. Raises OSError as `fixed_crops` does."""
    return cache_key(digest_of(example), *crop.box, crop.is_mirrored, *example.bucket)


def cache_key(*values: object) -> bytes:
    """Return the key of a row in a cache."""
    return blake2b(repr(values).encode(), digest_size=KEY_BYTES).digest()


def _generator_of(example: Example) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key_of(0, "fixed crops", digest_of(example), *example.bucket)))


def digest_of(example: Example) -> str:
    """Return the hash of an image's file. Raises OSError where it is not known and cannot be read."""
    return example.digest or _digest_of_file(example.path, example.stamp)


@lru_cache(maxsize=1 << 18)
def _digest_of_file(path: Path, stamp: int | None) -> str:
    """Return the hash of a file that was not read in full; once for each `stamp`."""
    return sha256_of(path)[:DIGEST_LENGTH]
