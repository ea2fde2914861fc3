"""Noise that is added to latents in training: Gaussian, with more weight on low frequencies if wished.

Every number drawn is a function of the seed and of the image's visit, made on the CPU in fp32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ed2.data.loader import VisitKey
from ed2.draws import rng

PYRAMID_LEVELS = 10


@dataclass(frozen=True)
class NoiseOptions:
    """What is mixed into the noise.

    Attributes:
        pyramid_discount: weight of each next coarser level of noise; 0 for none.
        offset: standard deviation of a number added to all of a channel; 0 for none.
    """

    pyramid_discount: float = 0.0
    offset: float = 0.0


def gaussian(seed: int, what: str, visits: Sequence[VisitKey], shape: Sequence[int]) -> Tensor:
    """Standard normal numbers of `shape` for each visit: (B, *shape), fp32, on the CPU."""
    draws = [rng(seed, what, *key_of(v)).standard_normal(tuple(shape), dtype=np.float32) for v in visits]
    return torch.from_numpy(np.stack(draws))


def training_noise(seed: int, visits: Sequence[VisitKey], shape: Sequence[int], options: NoiseOptions) -> Tensor:
    """The noise of a batch: (B, *shape) for latents of `shape` (C,h,w).

    The offset is added last, so that it is not scaled away.
    Source of the offset: Guttenberg 2023, "Diffusion with offset noise",
    https://www.crosslabs.org/blog/diffusion-with-offset-noise.
    """
    noise = gaussian(seed, "noise", visits, shape)
    if options.pyramid_discount > 0:
        images = [
            pyramid_noise(image, _draw_of(seed, "pyramid", visit), options.pyramid_discount)
            for image, visit in zip(noise, visits, strict=True)
        ]
        noise = torch.stack(images)
    if options.offset > 0:
        noise = noise + options.offset * gaussian(seed, "offset", visits, (shape[0], 1, 1))
    return noise


def pyramid_noise(noise: Tensor, generator: np.random.Generator, discount: float) -> Tensor:
    """Add coarser and coarser noise to that of one image (C,h,w), and scale the sum to a deviation of 1.

    Level i is drawn at a size that shrinks by r**i, r between 2 and 4, enlarged, and weighs discount**i.
    Source: Whitaker 2023, "Multi-resolution noise for diffusion model training", wandb.ai/johnowhitaker/multires_noise.
    """
    channels, height, width = noise.shape
    total, size = noise.clone(), (height, width)
    for level in range(PYRAMID_LEVELS):
        ratio = (generator.random() * 2 + 2) ** level
        size = (max(1, int(size[0] / ratio)), max(1, int(size[1] / ratio)))
        coarse = torch.from_numpy(generator.standard_normal((1, channels, *size), dtype=np.float32))
        total += F.interpolate(coarse, (height, width), mode="bilinear")[0] * discount**level
        if 1 in size:
            break
    return total / total.std()


def key_of(visit: VisitKey) -> tuple[int, str, int]:
    """What tells a visit apart from all others of a run."""
    return visit.epoch, visit.key, visit.repeat


def _draw_of(seed: int, what: str, visit: VisitKey) -> np.random.Generator:
    return rng(seed, what, *key_of(visit))
