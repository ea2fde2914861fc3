"""What a step minimises: noise is added to the latents of a batch, and the network has to tell it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ed2.data.loader import Batch, VisitKey
from ed2.draws import rng
from ed2.models.base import Conditioning, DiffusionModel, ImageSizes
from ed2.training.noise import NoiseOptions, gaussian, key_of, training_noise

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ObjectiveOptions:
    """What the user may change about the objective.

    Attributes:
        timestep_start: the first timestep that is drawn.
        timestep_end: one past the last, None for the end of the schedule; a larger one ends there too.
        min_snr_gamma: upper bound on the signal-to-noise ratio as a weight; None weighs all timesteps alike.
        embedding_perturbation: strength of the noise on prompt embeddings.
        noise: what is mixed into the noise on latents.
    """

    timestep_start: int = 0
    timestep_end: int | None = None
    min_snr_gamma: float | None = None
    embedding_perturbation: float = 0.0
    noise: NoiseOptions = field(default_factory=NoiseOptions)


@dataclass(frozen=True)
class Objective:
    """The loss of a batch, as a function of the batch and the seed alone.

    Every draw is keyed by the image's visit and made on the CPU, so that the same image meets the same noise on any
    device, alone or in a batch, before or after a resume.
    """

    model: DiffusionModel
    loss: Loss
    seed: int
    device: torch.device
    options: ObjectiveOptions = ObjectiveOptions()

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of each image, shape (B,), fp32."""
        process = self.model.process
        latents = self.latents(batch)
        timesteps = self.timesteps(batch.visits)
        noise = training_noise(self.seed, batch.visits, latents.shape[1:], self.options.noise)
        noise = noise.to(self.device, non_blocking=True)
        noisy_latents = process.add_noise(latents, noise, timesteps)
        target = process.target(latents, noise, timesteps)
        prediction = self.model.predict(noisy_latents, timesteps, self.conditioning(batch))
        losses = self.loss(prediction, target, process.position(timesteps))
        return losses * self.timestep_weights(timesteps) * batch.loss_scale.to(self.device)

    def latents(self, batch: Batch) -> Tensor:
        """Encode the pixels of a batch: (B,C,h,w)."""
        height, width = batch.pixels.shape[2:]
        size = (height // self.model.downscale, width // self.model.downscale)
        draw = self.gaussian("latent", batch.visits, (self.model.facts.latent_channels, *size))
        posterior = self.model.encode_pixels(batch.pixels.to(self.device, non_blocking=True))
        return posterior.sample(draw) * self.model.latent_scale

    def timesteps(self, visits: Sequence[VisitKey]) -> Tensor:
        """Draw a timestep for each visit, uniform over those that are trained: (B,), int64."""
        generators = [rng(self.seed, "timestep", *key_of(visit)) for visit in visits]
        steps = self.model.process.draw_timesteps(generators, self.options.timestep_start, self.options.timestep_end)
        return steps.to(self.device)

    def conditioning(self, batch: Batch) -> Conditioning:
        """What guides the prediction: embeddings of the captions, perturbed by noise of deviation strength / sqrt(D).

        Source: Chen et al. 2024, arXiv:2405.20494, section 4.1.
        """
        embeds = self.model.encode_captions(batch.captions)
        if self.options.embedding_perturbation:
            hidden = embeds.hidden
            deviation = self.options.embedding_perturbation / math.sqrt(hidden.shape[-1])
            noise = self.gaussian("embedding", batch.visits, hidden.shape[1:]).to(hidden.dtype)
            embeds = replace(embeds, hidden=hidden + deviation * noise)
        return self.model.condition(embeds, ImageSizes.uncropped(batch.bucket, len(batch)))

    def timestep_weights(self, timesteps: Tensor) -> Tensor:
        """How much the loss of each image counts by its timestep: (B,)."""
        if self.options.min_snr_gamma is None:
            return torch.ones_like(timesteps, dtype=torch.float32)
        return self.model.process.weight(timesteps, self.options.min_snr_gamma)

    def gaussian(self, what: str, visits: Sequence[VisitKey], shape: Sequence[int]) -> Tensor:
        """Draw standard normal numbers of `shape` for each visit: (B, *shape), fp32, on the device."""
        return gaussian(self.seed, what, visits, shape).to(self.device, non_blocking=True)
