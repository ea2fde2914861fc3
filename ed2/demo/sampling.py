"""Samples images from the demo's models and draws them side by side."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from ed2.demo.models import SCALING_FACTOR, sampling_scheduler, tokenize
from ed2.demo.shapes import COLOURS, SHAPES, Scene, Size, with_article
from ed2.demo.train_vae import to_pixels


@dataclass(frozen=True)
class Models:
    """All parts that an image needs."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL


def test_prompts(num_prompts: int = 60, seed: int = 5) -> tuple[list[str], list[Scene]]:
    """Return prompts for the checker, shapes and colours taken in turn, with what they ask for."""
    rng, scenes = random.Random(seed), []
    for index in range(num_prompts):
        colour = list(COLOURS)[index % len(COLOURS)]
        background = rng.choice([name for name in COLOURS if name != colour])
        scenes.append(Scene(SHAPES[index % len(SHAPES)], colour, background))
    prompts = [
        f"{with_article(scene.colour)} {scene.shape} on {with_article(scene.background)} background" for scene in scenes
    ]
    return prompts, scenes


@torch.no_grad()
def sample(
    models: Models, prompts: list[str], *, size: Size = (64, 64), cfg: float = 4.0, seed: int = 0, num_steps: int = 20
) -> NDArray[np.uint8]:
    """Sample one image per prompt with DDIM; returns uint8 (prompts, height, width, 3)."""
    scheduler = sampling_scheduler()
    scheduler.set_timesteps(num_steps)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(prompts), 4, size[1] // 4, size[0] // 4, generator=generator)
    prompt_embeds = models.text_encoder(tokenize(models.tokenizer, [""] * len(prompts) + prompts))[0]
    for timestep in scheduler.timesteps:
        both = models.unet(torch.cat([latents, latents]), timestep, prompt_embeds).sample
        plain, guided = both.chunk(2)
        latents = scheduler.step(plain + cfg * (guided - plain), timestep, latents).prev_sample
    return to_pixels(models.vae.decode(latents / SCALING_FACTOR).sample)


def contact_sheet(images: NDArray[np.uint8], *, columns: int = 10, enlargement: int = 2) -> Image.Image:
    """Return the images, all of one size, in rows on white."""
    height, width = images.shape[1:3]
    num_rows = -(-len(images) // columns)
    sheet = np.full((num_rows * (height + 2), columns * (width + 2), 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 2), index % columns * (width + 2)
        sheet[top : top + height, left : left + width] = image
    large = (sheet.shape[1] * enlargement, sheet.shape[0] * enlargement)
    return Image.fromarray(sheet).resize(large, Image.Resampling.NEAREST)
