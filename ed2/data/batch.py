"""Images of one size, ready for the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ed2.data.buckets import Size
from ed2.data.variants import VisitKey


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images of one size, ready for the model: their pixels, or what the VAE made of them."""

    pixels: Tensor | None
    """uint8 (B, 3, H, W), channels last; None if all of `posterior` was cached, or if it is elsewhere."""
    captions: tuple[str, ...]
    """Empty strings for dropped captions."""
    loss_scale: Tensor
    """float32 (B,)."""
    visits: tuple[VisitKey, ...]
    names: tuple[str, ...]
    """The name of each image, for messages."""
    bucket: Size
    original_size: Tensor
    """int64 (B, 2): height and width of each image file, upright."""
    crop: Tensor
    """int64 (B, 2): pixels cut off at the top and left of each image as resized to cover the bucket."""
    posterior: Tensor | None = None
    """float32 (B, 2, C, h, w): mean and standard deviation of the latents, not scaled; None if there are pixels."""
    cache_keys: tuple[bytes, ...] = ()
    """With a latent cache, the key of each image's latents."""

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def is_elsewhere(self) -> bool:
        """Whether another process trains these images."""
        return self.pixels is None and self.posterior is None

    def part(self, start: int, stop: int) -> "Batch":
        """Return the images from `start` up to `stop` as a separate batch, with the same draws."""
        return Batch(
            pixels=None if self.pixels is None else self.pixels[start:stop],
            captions=self.captions[start:stop],
            loss_scale=self.loss_scale[start:stop],
            visits=self.visits[start:stop],
            names=self.names[start:stop],
            bucket=self.bucket,
            original_size=self.original_size[start:stop],
            crop=self.crop[start:stop],
            posterior=None if self.posterior is None else self.posterior[start:stop],
            cache_keys=self.cache_keys[start:stop],
        )


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into at most `parts` parts whose sizes differ by at most one image."""
    parts = max(1, min(parts, len(batch)))
    borders = [len(batch) * place // parts for place in range(parts + 1)]
    return [batch.part(start, stop) for start, stop in pairwise(borders)]


def stacked(images: Sequence[NDArray[np.uint8]], *, pinned: bool = False) -> Tensor:
    """Return images (H, W, 3) as uint8 (B, 3, H, W), channels last; pinned memory goes to a GPU without waiting."""
    whole = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, pin_memory=pinned)
    np.stack(images, out=whole.numpy())
    return whole.permute(0, 3, 1, 2)


def as_numbers(pixels: Tensor, device: torch.device) -> Tensor:
    """Return uint8 pixels as float32 in -1 to 1 on a device; dividing by 127.5 makes both ends exact."""
    # There and not before: a quarter of the bytes are moved, and a GPU converts them in no time.
    numbers = pixels.to(device, non_blocking=True).to(torch.float32)
    # By a tensor: instead of dividing by a number, a GPU multiplies by its reciprocal, with other last bits than a CPU.
    return numbers.div_(torch.full((), 127.5, device=device)).sub_(1)
