"""What is tried: sets of options, each one factor away from the base recipe, and the winners together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ed2.settings.files import PROGRAM_DIR

DEMO = PROGRAM_DIR / "ed2" / "demo"
VERSION = 1
"""Of the scores: a result of another version is not used."""
REFERENCE = "demo of 600 steps"
BASE = "base"
RECIPE: dict[str, object] = {
    "resolution": 64,
    "batch_size": 4,
    "max_epochs": 50,
    "lr": 5e-4,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 0,
    "disable_textenc_training": True,
    "cond_dropout": 0.1,
    "optimizer": "adamw",
}
"""The base recipe: the demo's preset in half of its 600 steps."""
FIXED: dict[str, object] = {
    "project_name": "recipe",
    "device": "cpu",
    "log_step": 10_000,
    "ckpt_every_n_minutes": 0,
    "sample_prompts": "none",
    "cache_latents": True,
    "cache_text": True,
    "decode_threads": 1,
}
LORA: dict[str, object] = {"method": "lora", "lora_rank": 16, "lora_layers": "all", "lr": 3e-3}
TEXT: dict[str, object] = {"disable_textenc_training": False}
CONSTANT_EMA: dict[str, object] = {"lr_scheduler": "constant", "ema_decay_rate": 0.98, "ema_update_interval": 1}


@dataclass(frozen=True)
class Images:
    """The dataset: how many images of the creature, and of other objects that the base knows."""

    zorgs: int = 24
    others: int = 0


@dataclass(frozen=True)
class Recipe:
    """A row of the table.

    Attributes:
        name: unique; what is written with a result.
        factor: what differs from the base recipe.
        changes: settings on top of the base recipe.
        images: what it is trained on.
    """

    name: str
    factor: str
    changes: Mapping[str, object] = field(default_factory=dict)
    images: Images = Images()

    def settings(self) -> dict[str, object]:
        """Flat settings without paths and seed."""
        return {**FIXED, **RECIPE, **self.changes}

    def key(self) -> str:
        """Changes with everything that the scores of a seed depend on."""
        content = [VERSION, self.settings(), self.images.zorgs, self.images.others]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _one(factor: str, level: str, images: Images | None = None, **changes: object) -> Recipe:
    return Recipe(f"{factor}: {level}", factor, changes, images or Images())


RECIPES = (
    Recipe(REFERENCE, "reference", {"max_epochs": 100}),
    Recipe(BASE, "reference"),
    _one("rate", "1e-3", lr=1e-3),
    _one("other objects", "12 images", Images(others=12), max_epochs=33),
    _one("method", "LoRA 16, all layers, 3e-3", **LORA),
    _one("min-SNR", "gamma 5", min_snr_gamma=5.0),
    _one("caption dropout", "0", cond_dropout=0.0),
    _one("text encoder", "trained at half the rate", **TEXT),
    _one("schedule", "constant", lr_scheduler="constant"),
    _one("together", "constant, text encoder at half the rate", lr_scheduler="constant", **TEXT),
    _one("together", "text encoder at half the rate, 24 other objects", Images(others=24), max_epochs=25, **TEXT),
    _one("schedule", "constant, EMA 0.98", **CONSTANT_EMA),
    _one("together", "rate 1e-3, 24 other objects", Images(others=24), max_epochs=25, lr=1e-3),
    _one("together", "constant, EMA 0.98, 24 other objects", Images(others=24), max_epochs=25, **CONSTANT_EMA),
    _one("rate", "2e-3", lr=2e-3),
    _one("images", "12", Images(zorgs=12), max_epochs=100),
    _one("warm-up", "30 steps", lr_warmup_steps=30),
    _one("optimizer", "Lion, 1e-4", optimizer="lion", lr=1e-4),
    _one("other objects", "24 images", Images(others=24), max_epochs=25),
    _one("optimizer", "schedule-free, constant", optimizer="schedulefree", lr_scheduler="constant"),
    _one("images", "48", Images(zorgs=48), max_epochs=25),
    _one("EMA", "0.98", ema_decay_rate=0.98, ema_update_interval=1),
    _one("text encoder", "trained at a fiftieth of the rate", text_encoder_lr=1e-5, **TEXT),
    _one("rate", "2.5e-4", lr=2.5e-4),
    _one("caption dropout", "0.3", cond_dropout=0.3),
    _one("optimizer", "Adafactor, 5e-4", optimizer="adafactor"),
    _one("optimizer", "Prodigy, 1", optimizer="prodigy", lr=1.0),
    _one("optimizer", "8-bit Adam", optimizer="adamw8bit"),
    _one("schedule", "linear", lr_scheduler="linear"),
    _one("method", "LoRA 16, linear layers, 3e-3", **{**LORA, "lora_layers": "linear"}),
    _one("method", "LoRA 4, all layers, 3e-3", **{**LORA, "lora_rank": 4}),
)
"""In the order in which they are trained: the most telling first."""


def write_images(images: Images, folder: Path) -> Path:
    """Write a dataset to a new folder: first the demo's own images, then more that are drawn as they were.

    The other objects are drawn as what the base was trained on; none shows what a prompt of the score asks for.
    """
    from random import Random

    from PIL import Image

    from ed2.demo.build_base import test_prompts
    from ed2.demo.shapes import BUCKETS, draw_image
    from ed2.demo.zorg import NUM_IMAGES, draw_image_set

    folder.mkdir(parents=True)
    drawn = [one for seed in range(11, 11 + -(-images.zorgs // NUM_IMAGES)) for one in draw_image_set(seed)]
    for number, captioned in enumerate(drawn[: images.zorgs]):
        captioned.image.save(folder / f"zorg-{number:03d}.png")
        (folder / f"zorg-{number:03d}.txt").write_text(captioned.caption, encoding="utf-8")
    rng, number = Random(3), 0
    asked = set(test_prompts()[1])
    while number < images.others:
        other = draw_image(rng, BUCKETS[number % len(BUCKETS)])
        if other.scene in asked:
            continue
        Image.fromarray(other.pixels).save(folder / f"other-{number:03d}.png")
        (folder / f"other-{number:03d}.txt").write_text(other.caption, encoding="utf-8")
        number += 1
    return folder
