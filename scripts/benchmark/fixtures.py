"""A base model of 43 million random weights in the layout of SD 1.x, and images to train it on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "ed2" / "models" / "files" / "configs"
PHOTOGRAPHS = ((1200, 1200), (1600, 1500), (2000, 1900), (1100, 1000))
"""Sizes of 1 to 4 megapixels, all of which are trained at 256x256."""
PER_FOLDER = 500
SMALL_SIZES = ((96, 64), (64, 96), (80, 80), (120, 64))


def make_base(folder: Path, width: int) -> Path:
    """Write a diffusers folder; `width` is that of the UNet's first block, 64 as in the table."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        layers_per_block=2,
        cross_attention_dim=128,
        attention_head_dim=8,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        norm_num_groups=16,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(folder / "vae")
    config = CLIPTextConfig(hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4)
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    for part in ("scheduler", "tokenizer"):
        shutil.copytree(CONFIGS / "sd1" / part, folder / part)
    for file in (CONFIGS / "tokenizer").iterdir():
        shutil.copy(file, folder / "tokenizer")
    shutil.copy(CONFIGS / "sd1" / "model_index.json", folder)
    return folder


def settings(folder: Path, **changed: Any) -> dict[str, Any]:
    """Flat settings of a run in `folder`: UNet only, fp32, AdamW, batch 4, nothing saved or sampled on the way."""
    return {
        "project_name": "bench",
        "resume_ckpt": str(folder / "base"),
        "data_root": [str(folder / "images")],
        "resolution": 256,
        "batch_size": 4,
        "optimizer": "adamw",
        "disable_textenc_training": True,
        "amp": False,
        "ckpt_every_n_minutes": 0,
        "no_save_ckpt": True,
        "sample_prompts": "",
        "logdir": str(folder / "logs"),
        "save_ckpt_dir": str(folder / "files"),
        "device": "cpu",
        "seed": 1,
        "max_epochs": 1000,
        **changed,
    }


def photograph(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """An image of smooth noise with grain, about as hard to compress as a photograph."""
    generator = np.random.default_rng(seed)
    coarse = (size[0] // 10, size[1] // 10)
    smooth = Image.fromarray(generator.integers(0, 256, (coarse[1], coarse[0], 3), dtype=np.uint8)).resize(size)
    grain = generator.normal(0, 8, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8))


def make_photographs(folder: Path, count: int) -> Path:
    """Write JPEG files of 1 to 4 megapixels with captions."""
    folder.mkdir(parents=True)
    for number in range(count):
        photograph(PHOTOGRAPHS[number % len(PHOTOGRAPHS)], number).save(folder / f"{number:03d}.jpg", quality=90)
        (folder / f"{number:03d}.txt").write_text(f"photograph number {number}, a tag, another")
    return folder


def make_small_images(root: Path, count: int) -> Path:
    """Write small JPEG files in folders of 500, no two alike, each with a caption of seven tags."""
    generator = np.random.default_rng(0)
    root.mkdir()
    for number in range(count):
        folder = root / f"{number // PER_FOLDER:03d}"
        if number % PER_FOLDER == 0:
            folder.mkdir()
            (folder / "multiply.txt").write_text("0.5")
        smooth = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        smooth.resize(SMALL_SIZES[number % len(SMALL_SIZES)]).save(folder / f"{number:06d}.jpg")
        tags = ", ".join(f"tag {(number * step) % 997}" for step in range(1, 8))
        (folder / f"{number:06d}.txt").write_text(f"image number {number}, {tags}")
    return root


def make_wide_base(folder: Path, width: int) -> Path:
    """The tests' tiny model with a UNet of two levels whose first has `width` channels."""
    from diffusers import UNet2DConditionModel

    from tests.tiny import make_model

    make_model(folder)
    config = json.loads((folder / "unet" / "config.json").read_text())
    config |= {"block_out_channels": [width, 2 * width], "layers_per_block": 2, "norm_num_groups": 32}
    for file in (folder / "unet").iterdir():
        file.unlink()
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    return folder
