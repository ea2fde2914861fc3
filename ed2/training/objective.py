"""What a step minimises: noise is added to the latents of a batch, and the network has to tell it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ed2.data.loader import Batch, VisitKey
from ed2.draws import rng
from ed2.models.base import DiffusionModel

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """The loss of a batch, as a function of the batch and the seed alone.

    Every draw is keyed by the picture's visit and made on the CPU, so that the same picture meets the same noise on any
    device, alone or in a batch, before or after a resume.
    """

    model: DiffusionModel
    loss: Loss
    seed: int
    device: torch.device

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of each picture, shape (B,), fp32."""
        latents = self.latents(batch)
        timesteps = self.timesteps(batch.visits)
        noise = self.gaussian("noise", batch.visits, latents.shape[1:])
        noisy_latents = self.model.noise_schedule.add_noise(latents, noise, timesteps)
        target = self.model.noise_schedule.target(latents, noise, timesteps)
        prompt_embeds = self.model.encode_captions(batch.captions)
        prediction = self.model.predict(noisy_latents, timesteps, prompt_embeds)
        return self.loss(prediction, target, timesteps) * batch.loss_scale.to(self.device)

    def latents(self, batch: Batch) -> Tensor:
        """Encode the pixels of a batch: (B,C,h,w)."""
        height, width = batch.pixels.shape[2:]
        size = (height // self.model.downscale, width // self.model.downscale)
        draw = self.gaussian("latent", batch.visits, (self.model.latent_channels, *size))
        return self.model.encode_pixels(batch.pixels.to(self.device, non_blocking=True), draw)

    def timesteps(self, visits: Sequence[VisitKey]) -> Tensor:
        """Draw a timestep for each visit, uniform over all of the schedule: (B,), int64."""
        steps = [rng(self.seed, "timestep", *_key(v)).integers(self.model.noise_schedule.num_timesteps) for v in visits]
        return torch.tensor(steps, dtype=torch.int64, device=self.device)

    def gaussian(self, what: str, visits: Sequence[VisitKey], shape: Sequence[int]) -> Tensor:
        """Draw standard normal numbers of `shape` for each visit: (B, *shape), fp32."""
        draws = [rng(self.seed, what, *_key(v)).standard_normal(tuple(shape), dtype=np.float32) for v in visits]
        return torch.from_numpy(np.stack(draws)).to(self.device, non_blocking=True)


def _key(visit: VisitKey) -> tuple[int, str, int]:
    return visit.epoch, visit.key, visit.repeat
