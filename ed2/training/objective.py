"""The loss that a step minimises: how well the network predicts the noise that was added to a batch of latents.

The noise is Gaussian, optionally with more weight on low frequencies.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ed2.data.batch import Batch, as_numbers
from ed2.data.buckets import Size
from ed2.data.variants import VisitKey
from ed2.draws import rng
from ed2.models.base import Conditioning, DiffusionModel, ImageSizes, Posterior, on_device
from ed2.models.files.tokens import CONTEXT_LENGTH
from ed2.models.parts import Part

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""loss(prediction, target, position): one number per image, shape (B,), in fp32.

Prediction and target are (B,C,h,w); the position, (B,), is 0 for the timestep of least noise and 1 for that of most.
"""

PYRAMID_LEVELS = 10
HUBER_DELTA = 1.0
"""Smaller errors count quadratically, larger ones linearly."""


@dataclass(frozen=True)
class ObjectiveOptions:
    """What the user may change about the objective.

    Attributes:
        timestep_start: the lowest timestep that is drawn.
        timestep_end: one past the highest timestep that is drawn; None, or one beyond the schedule, for its end.
        min_snr_gamma: upper bound on the SNR weight of a timestep; None for equal weights.
        embedding_perturbation: strength of the noise on prompt embeddings.
        pyramid_discount: factor from one level of pyramid noise to the next coarser one; 0 for no pyramid.
        noise_offset: standard deviation of a constant that is added to the noise of each channel; 0 for none.
    """

    timestep_start: int = 0
    timestep_end: int | None = None
    min_snr_gamma: float | None = None
    embedding_perturbation: float = 0.0
    pyramid_discount: float = 0.0
    noise_offset: float = 0.0


@dataclass(frozen=True)
class Objective:
    """The loss of a batch, as a function of the batch and the seed alone.

    Every draw is keyed by the image's visit and made on the CPU, so an image gets the same noise on any device,
    alone or in a batch, with or without a resume.

    Attributes:
        on_encoded: called with what the VAE made of a batch of pixels.
        resting: the parts that training does not need, since all that they would compute is cached: they leave the
            device before a loss is computed, if they have come back for something else.
        make_room: called with the size of the images before a loss is computed.
    """

    model: DiffusionModel
    loss: Loss
    seed: int
    device: torch.device
    options: ObjectiveOptions = ObjectiveOptions()
    on_encoded: Callable[[Batch, Posterior], object] = lambda batch, posterior: None
    resting: list[Part] = field(default_factory=list)
    make_room: Callable[[Size], object] = lambda bucket: None

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of each image, shape (B,), fp32; of no images, a loss that has no gradients."""
        if not len(batch):
            return torch.zeros(0, device=self.device, requires_grad=True)
        process = self.model.process
        for part in self.resting:
            part.leave()
        self.make_room(batch.bucket)
        self.model.visits.visits = batch.visits
        # Every draw below is made per image from its own key; the order of these lines changes no number.
        latents = self.latents(batch)
        timesteps = self.timesteps(batch.visits)
        noise = training_noise(self.seed, batch.visits, latents.shape[1:], self.options)
        noise = on_device(noise, self.device)
        noisy_latents = process.add_noise(latents, noise, timesteps)
        # The target depends on what the model predicts: the noise, or the velocity.
        target = process.target(latents, noise, timesteps)
        prediction = self.model.predict(noisy_latents, timesteps, self.conditioning(batch))
        losses = self.loss(prediction, target, process.position(timesteps))
        # Weights and loss scale multiply the loss of each image, never the mean, so a batch can be split.
        return losses * self.timestep_weights(timesteps) * on_device(batch.loss_scale, self.device)

    def latents(self, batch: Batch) -> Tensor:
        """Draw the latents of a batch: (B,C,h,w)."""
        width, height = (side // self.model.downscale for side in batch.bucket)
        # The VAE gives a distribution, which a cache may hold; what is drawn from it is keyed by the visit. Encoded
        # first: a GPU does that while the CPU draws.
        posterior = self.posterior(batch)
        draw = self.gaussian("latent", batch.visits, (self.model.facts.latent_channels, height, width))
        return posterior.sample(draw) * self.model.latent_scale

    def posterior(self, batch: Batch) -> Posterior:
        """The distribution of the latents of a batch: cached, or encoded from its pixels."""
        if batch.posterior is not None:
            mean, std = on_device(batch.posterior, self.device).unbind(1)
            # In the memory format of what the VAE gives, which decides the last bits of what follows.
            as_encoded = torch.channels_last
            return Posterior(mean.contiguous(memory_format=as_encoded), std.contiguous(memory_format=as_encoded))
        assert batch.pixels is not None
        posterior = self.model.encode_pixels(as_numbers(batch.pixels, self.device))
        self.on_encoded(batch, posterior)
        return posterior

    def timesteps(self, visits: Sequence[VisitKey]) -> Tensor:
        """Draw a timestep for each visit, uniform over those that are trained: (B,), int64."""
        # One generator per image rather than one per batch: the timestep survives another batch size.
        generators = [rng(self.seed, "timestep", *visit) for visit in visits]
        steps = self.model.process.draw_timesteps(generators, self.options.timestep_start, self.options.timestep_end)
        return on_device(steps, self.device)

    def conditioning(self, batch: Batch) -> Conditioning:
        """What guides the prediction: embeddings of the captions, perturbed by noise of deviation strength / sqrt(D).

        Source: Chen et al. 2024, arXiv:2405.20494, section 4.1.
        """
        embeds = self.model.encode_captions(batch.captions)
        if self.options.embedding_perturbation:
            hidden = embeds.hidden
            # By the dimension, so that the strength means the same for encoders of different width.
            deviation = self.options.embedding_perturbation / math.sqrt(hidden.shape[-1])
            noise = self.gaussian("embedding", batch.visits, (CONTEXT_LENGTH, hidden.shape[-1])).to(hidden.dtype)
            # The same for each chunk: a caption that is repeated beside a longer one must stay the same throughout.
            noise = noise.repeat(1, -(-hidden.shape[1] // CONTEXT_LENGTH), 1)[:, : hidden.shape[1]]
            embeds = replace(embeds, hidden=hidden + deviation * noise)
        width, height = batch.bucket
        target = torch.tensor([[height, width]]).expand(len(batch), 2)
        return self.model.condition(embeds, ImageSizes(batch.original_size, batch.crop, target))

    def timestep_weights(self, timesteps: Tensor) -> Tensor:
        """The weight of each image's loss by its timestep: (B,)."""
        if self.options.min_snr_gamma is None:
            return torch.ones_like(timesteps, dtype=torch.float32)
        return self.model.process.weight(timesteps, self.options.min_snr_gamma)

    def gaussian(self, what: str, visits: Sequence[VisitKey], shape: Sequence[int]) -> Tensor:
        """Draw standard normal numbers of `shape` for each visit: (B, *shape), fp32, on the device."""
        return on_device(gaussian(self.seed, what, visits, shape), self.device)


def gaussian(seed: int, what: str, visits: Sequence[VisitKey], shape: Sequence[int]) -> Tensor:
    """Standard normal numbers of `shape` for each visit: (B, *shape), fp32, on the CPU."""
    # numpy's Philox and not torch: the same bits on every platform, and independent of the device.
    draws = [rng(seed, what, *visit).standard_normal(tuple(shape), dtype=np.float32) for visit in visits]
    return torch.from_numpy(np.stack(draws))


def training_noise(seed: int, visits: Sequence[VisitKey], shape: Sequence[int], options: ObjectiveOptions) -> Tensor:
    """The noise of a batch: (B, *shape) for latents of `shape` (C,h,w).

    The offset is added last, because scaling the pyramid to unit deviation would shrink it.
    Source of the offset: Guttenberg 2023, "Diffusion with offset noise",
    https://www.crosslabs.org/blog/diffusion-with-offset-noise.
    """
    # Without options this is plain Gaussian noise, bit for bit.
    noise = gaussian(seed, "noise", visits, shape)
    if options.pyramid_discount > 0:
        images = [
            pyramid_noise(image, rng(seed, "pyramid", *visit), options.pyramid_discount)
            for image, visit in zip(noise, visits, strict=True)
        ]
        noise = torch.stack(images)
    if options.noise_offset > 0:
        noise = noise + options.noise_offset * gaussian(seed, "offset", visits, (shape[0], 1, 1))
    return noise


def pyramid_noise(noise: Tensor, generator: np.random.Generator, discount: float) -> Tensor:
    """Add coarser and coarser levels to the noise of one image (C,h,w), and scale the sum to a deviation of 1.

    Level i is drawn at a size divided by r**i, r between 2 and 4, enlarged, and weighted by discount**i.
    Source: Whitaker 2023, "Multi-resolution noise for diffusion model training", wandb.ai/johnowhitaker/multires_noise.
    """
    channels, height, width = noise.shape
    total, size = noise.clone(), (height, width)
    for level in range(PYRAMID_LEVELS):
        # A random ratio, so that no fixed set of frequencies is preferred over the epochs.
        ratio = (generator.random() * 2 + 2) ** level
        size = (max(1, int(size[0] / ratio)), max(1, int(size[1] / ratio)))
        coarse = torch.from_numpy(generator.standard_normal((1, channels, *size), dtype=np.float32))
        total += F.interpolate(coarse, (height, width), mode="bilinear")[0] * discount**level
        # Coarser levels would only repeat a constant.
        if 1 in size:
            break
    # The schedule assumes unit deviation; per image, so that a batch can be split.
    return total / total.std()


def mse(prediction: Tensor, target: Tensor, position: Tensor) -> Tensor:
    """Mean squared error.

    Source: Ho et al. 2020, arXiv:2006.11239, equation 14.
    """
    return F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))


def huber(prediction: Tensor, target: Tensor, position: Tensor) -> Tensor:
    """Huber's loss, less sensitive to outliers: half the square of an error up to 1, beyond that |error| - 0.5.

    Source: Huber 1964, "Robust estimation of a location parameter", equation 1.6.
    """
    losses = F.huber_loss(prediction.float(), target.float(), reduction="none", delta=HUBER_DELTA)
    return losses.mean(dim=(1, 2, 3))


def mse_huber(prediction: Tensor, target: Tensor, position: Tensor) -> Tensor:
    """MSE at timestep 0, Huber's loss at the last, mixed by `position` in between."""
    return torch.lerp(mse(prediction, target, position), huber(prediction, target, position), position)


def huber_mse(prediction: Tensor, target: Tensor, position: Tensor) -> Tensor:
    """Huber's loss at timestep 0, MSE at the last, mixed by `position` in between."""
    return torch.lerp(huber(prediction, target, position), mse(prediction, target, position), position)
