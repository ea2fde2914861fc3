"""From prompts to images: starting noise, guided denoising, decoding.

Nothing here uses a global random generator, so samples change no random draw of training and can be repeated.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ed2.draws import rng
from ed2.models.base import Conditioning, DiffusionModel, ImageSizes, evaluating
from ed2.registry import SAMPLERS
from ed2.sampling.prompt import NUM_STEPS, SAMPLER, SAMPLER_AT_ZERO_SNR, Prompt

GUIDANCE_RESCALE = 0.7
"""How far guidance is rescaled with zero terminal SNR. Source: arXiv:2305.08891, section 3.4."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """How samples are drawn.

    Attributes:
        sampler: a name in `SAMPLERS`; None for the default one.
        num_steps: denoising steps.
        batch_size: prompts in one forward pass; guidance passes each twice, with and without the prompt.
        autocast: gives the context of a forward pass.
        should_stop: polled before every denoising step.
        on_step: called before every one with the number of prompts in the batch, the step, from 1, and the total, both
            counted over all CFG values.
        on_image: called with each image as soon as it is drawn: its prompt, the place of its CFG value, and the image.
    """

    sampler: str | None = None
    num_steps: int = NUM_STEPS
    batch_size: int = 1
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    should_stop: Callable[[], bool] = lambda: False
    on_step: Callable[[int, int, int], None] = lambda at_once, place, total: None
    on_image: Callable[[Prompt, int, Image.Image], None] = lambda prompt, place, image: None


@dataclass(frozen=True)
class Drawn:
    """The images of one prompt, a tile for each of its CFG values, in their order."""

    prompt: Prompt
    tiles: tuple[Image.Image, ...]


@dataclass(frozen=True)
class Guidance:
    """The guidance of a batch: the prompts, and the negative prompts."""

    prompts: Conditioning
    negatives: Conditioning


def starting_noise(prompt: Prompt, *, latent_channels: int, downscale: int) -> Tensor:
    """Standard normal noise (C,h,w) in fp32 on the CPU, a function of the prompt's seed, index and size only."""
    width, height = (side // downscale for side in prompt.size)
    generator = rng(prompt.seed, "sample", prompt.index)
    return torch.from_numpy(generator.standard_normal((latent_channels, height, width), dtype=np.float32))


def draw_samples(model: DiffusionModel, prompts: Sequence[Prompt], options: SampleOptions) -> Iterator[Drawn]:
    """Draw the prompts, batch by batch, in their order; prompts of one batch share size and CFG values.

    Between results the model is in its original state: the modes of its modules, gradients enabled.
    Ends early, without the current batch, when `options.should_stop()`.
    """
    for batch in batches_of(prompts, options.batch_size):
        drawn = _draw_batch(model, batch, options)
        if drawn is None:
            return
        yield from drawn


def batches_of(prompts: Iterable[Prompt], batch_size: int) -> Iterator[list[Prompt]]:
    """The prompts in batches of one size and the same CFG values, in their order."""
    for _, group in groupby(prompts, key=lambda p: (p.size, p.cfgs, p.sampler, p.num_steps)):
        alike = list(group)
        yield from (alike[start : start + batch_size] for start in range(0, len(alike), batch_size))


@torch.no_grad()
def _draw_batch(model: DiffusionModel, batch: Sequence[Prompt], options: SampleOptions) -> list[Drawn] | None:
    """The images of a batch; None if stopped."""
    sampler, num_steps = batch[0].sampler or options.sampler, batch[0].num_steps or options.num_steps
    options = replace(options, sampler=sampler, num_steps=num_steps)
    noises = [starting_noise(p, latent_channels=model.facts.latent_channels, downscale=model.downscale) for p in batch]
    noise = torch.stack(noises).to(model.device)
    columns: list[list[Image.Image]] = []
    with evaluating(model):
        with options.autocast():
            guidance = guidance_of(model, batch)
        cfgs = batch[0].cfgs
        for turn, cfg in enumerate(cfgs):
            generators = [_generator_of(prompt) for prompt in batch]
            own_options = _counted_over_turns(options, turn, len(cfgs))
            latents = denoise(model, noise, guidance, cfg, own_options, generators)
            if latents is None:
                return None
            columns.append(as_images(model.decode(latents)))
            for prompt, image in zip(batch, columns[-1], strict=True):
                options.on_image(prompt, turn, image)
    return [Drawn(prompt, tiles) for prompt, tiles in zip(batch, zip(*columns, strict=True), strict=True)]


def guidance_of(model: DiffusionModel, batch: Sequence[Prompt]) -> Guidance:
    """The guidance for prompts of one size."""
    sizes = ImageSizes.uncropped(batch[0].size, len(batch))
    prompts = model.encode_captions([prompt.prompt for prompt in batch])
    negatives = model.encode_captions([prompt.negative_prompt for prompt in batch])
    return Guidance(model.condition(prompts, sizes), model.condition(negatives, sizes))


def _counted_over_turns(options: SampleOptions, turn: int, turns: int) -> SampleOptions:
    """The options for one of several turns, with steps reported as a share of all turns."""
    report = options.on_step
    return replace(options, on_step=lambda at_once, place, total: report(at_once, turn * total + place, turns * total))


def _generator_of(prompt: Prompt) -> torch.Generator:
    """The generator for samplers that add noise: the same for each CFG value, whether alone or in a batch."""
    seed = int(rng(prompt.seed, "sample on the way", prompt.index).integers(2**63))
    return torch.Generator("cpu").manual_seed(seed)


def default_sampler(model: DiffusionModel) -> str:
    """The name of the sampler for prompts that do not choose one."""
    return SAMPLER_AT_ZERO_SNR if model.process.is_zero_snr else SAMPLER


def denoise(
    model: DiffusionModel,
    noise: Tensor,
    guidance: Guidance,
    cfg: float,
    options: SampleOptions,
    generators: Sequence[torch.Generator] = (),
) -> Tensor | None:
    """Turn noise (B,C,h,w) into latents of the same shape, in fp32; None if stopped.

    Samplers that add noise take it from `generators`, one per image.
    """
    scheduler = SAMPLERS.load(options.sampler or default_sampler(model))(model.process.config)
    scheduler.set_timesteps(options.num_steps, device=noise.device)
    latents = noise * scheduler.init_noise_sigma
    extra: dict[str, Any] = {}
    if generators and "generator" in inspect.signature(scheduler.step).parameters:
        extra["generator"] = list(generators)
    with options.autocast():  # one context for all steps, since it caches the weights that it casts
        for place, timestep in enumerate(scheduler.timesteps, 1):
            if options.should_stop():
                return None
            options.on_step(len(latents), place, len(scheduler.timesteps))
            scaled = scheduler.scale_model_input(latents, timestep)
            prediction = guided_prediction(model, scaled, timestep, guidance, cfg)
            latents = scheduler.step(prediction, timestep, latents, **extra).prev_sample
    return latents


def guided_prediction(
    model: DiffusionModel, latents: Tensor, timestep: Tensor, guidance: Guidance, cfg: float
) -> Tensor:
    """Return negative + cfg (prompt - negative), in fp32, both from one forward pass; 1 needs no negative.

    Source: Ho and Salimans 2022, arXiv:2207.12598, equation 6, with cfg = 1 + w.
    """
    if cfg == 1:
        return model.predict(latents, timestep.expand(len(latents)), guidance.prompts).float()
    both = guidance.negatives.joined(guidance.prompts)
    prediction = model.predict(torch.cat([latents, latents]), timestep.expand(2 * len(latents)), both).float()
    negative, prompted = prediction.chunk(2)
    guided = negative + cfg * (prompted - negative)
    return rescaled(guided, prompted, GUIDANCE_RESCALE) if model.process.is_zero_snr else guided


def rescaled(guided: Tensor, prompted: Tensor, share: float) -> Tensor:
    """Rescale a guided prediction (B,C,h,w) towards the standard deviation of the prompted one, by a share from 0 to 1.

    Source: Lin et al. 2023, arXiv:2305.08891, equations 15 and 16.
    """
    deviations = prompted.std(dim=(1, 2, 3), keepdim=True) / guided.std(dim=(1, 2, 3), keepdim=True)
    return share * guided * deviations + (1 - share) * guided


def as_images(pixels: Tensor) -> list[Image.Image]:
    """Images from pixels (B,3,H,W) in [-1, 1]; values that are not finite become grey."""
    levels = ((pixels.nan_to_num(0.0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(image) for image in levels.permute(0, 2, 3, 1).cpu().numpy()]
