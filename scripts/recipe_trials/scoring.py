"""How well a model was taught the creature, and how much it still knows of what its base knew.

Every model draws the same prompts from the same noise (DDIM, 12 steps, CFG 4, 64x64). What a perfect model would score
is told by true drawings that are passed through the base's VAE once: no model can draw better than its VAE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ed2.demo.build_base import test_prompts
from ed2.demo.checker import background_colour, concept_score, share_right
from ed2.demo.shapes import COLOURS, Scene, draw_image, jitter, with_article
from ed2.demo.zorg import HELD_OUT_BACKGROUNDS, POSES, SHOWN_BACKGROUNDS, Zorg, draw_zorg
from ed2.models.base import DiffusionModel
from ed2.models.families.sd import load
from ed2.models.files.folder import open_folder
from ed2.sampling.prompt import Prompt
from ed2.sampling.sampler import SampleOptions, as_images, draw_samples

SIDE = 64
CFG = 4.0
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Amount:
    """How many images are scored.

    Attributes:
        per_background: images of the creature on each background.
        objects: images of the base's own objects.
        steps: denoising steps.
    """

    per_background: int = 2
    objects: int = 48
    steps: int = 12


@dataclass(frozen=True)
class Scores:
    """All from 0 to 1.

    Attributes:
        shown: how plainly the creature is seen, on the backgrounds of its images.
        held_out: the same on backgrounds that it was never shown on.
        backgrounds: share of the latter images whose background has the colour that was asked for.
        objects: share of other objects that are right in shape, colour and background.
    """

    shown: float
    held_out: float
    backgrounds: float
    objects: float

    def as_object(self) -> dict[str, float]:
        """For JSON."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def score_model(folder: Path, amount: Amount) -> Scores:
    """The scores of a model in a diffusers folder."""
    model = _load(folder)
    shown, held_out = (_backgrounds(names, amount) for names in (SHOWN_BACKGROUNDS, HELD_OUT_BACKGROUNDS))
    words, scenes = test_prompts(amount.objects)
    zorgs = [f"a zorg on {with_article(name)} background" for name in (*shown, *held_out)]
    images = _drawn(model, [*zorgs, *words], amount)
    first, second = len(shown), len(zorgs)
    return _scores(images[:first], (images[first:second], held_out), (images[second:], scenes))


def score_ceiling(base: Path, amount: Amount) -> Scores:
    """The scores of true drawings that were passed through the VAE of the base once."""
    model, rng = _load(base), Random(0)
    shown, held_out = (_backgrounds(names, amount) for names in (SHOWN_BACKGROUNDS, HELD_OUT_BACKGROUNDS))
    zorgs = [[_true_zorg(rng, name) for name in names] for names in (shown, held_out)]
    objects = [draw_image(rng, (SIDE, SIDE)) for _ in range(amount.objects)]
    first, second, third = (_through_vae(model, images) for images in (*zorgs, [drawing.pixels for drawing in objects]))
    return _scores(first, (second, held_out), (third, [drawing.scene for drawing in objects]))


def _scores(
    shown: Sequence[Pixels],
    held_out: tuple[Sequence[Pixels], Sequence[str]],
    objects: tuple[Sequence[Pixels], Sequence[Scene]],
) -> Scores:
    images, names = held_out
    right = [background_colour(image) == name for image, name in zip(images, names, strict=True)]
    return Scores(
        shown=float(np.mean([concept_score(image) for image in shown])),
        held_out=float(np.mean([concept_score(image) for image in images])),
        backgrounds=float(np.mean(right)),
        objects=share_right(list(objects[0]), list(objects[1]))["all"],
    )


def _load(folder: Path) -> DiffusionModel:
    return load(open_folder(folder), trained=[], device=torch.device("cpu"), frozen_dtype=torch.float32)


def _backgrounds(names: Sequence[str], amount: Amount) -> list[str]:
    return [name for name in names for _ in range(amount.per_background)]


def _drawn(model: DiffusionModel, words: Sequence[str], amount: Amount) -> list[Pixels]:
    """An image for each prompt, each from noise of its own."""
    prompts = [Prompt(index, text, seed=index, size=(SIDE, SIDE), cfgs=(CFG,)) for index, text in enumerate(words)]
    options = SampleOptions(num_steps=amount.steps, batch_size=12)
    return [np.asarray(result.tiles[0]) for result in draw_samples(model, prompts, options)]


def _true_zorg(rng: Random, background: str) -> Pixels:
    """A creature placed at random, as in its image set."""
    radius = SIDE * rng.uniform(0.41, 0.45)
    room = SIDE / 2 - radius * 1.1
    centre = (SIDE / 2 + rng.uniform(-0.5, 0.5) * room, SIDE / 2 + rng.uniform(-0.5, 0.5) * room)
    zorg = Zorg(centre, radius, rng.uniform(-0.1, 0.1), rng.choice(POSES), rng.uniform(-1, 1))
    return np.asarray(draw_zorg((SIDE, SIDE), jitter(COLOURS[background], rng, 8), zorg))


@torch.no_grad()
def _through_vae(model: DiffusionModel, images: Sequence[Pixels]) -> list[Pixels]:
    """The images, encoded and decoded."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    decoded: list[Image.Image] = as_images(model.decode(model.encode_pixels(pixels).mean * model.latent_scale))
    return [np.asarray(image) for image in decoded]
