"""Base models of random weights in full size, written as folders, and images to train them on."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from scripts.benchmark.fixtures import photograph

NUM_IMAGES = 8


def write_base(folder: Path, family: str, *, is_tiny: bool, device: torch.device) -> Path:
    """Write a model of a family in fp16, or the tests' tiny one."""
    if is_tiny:
        from tests.tiny import make_model

        return make_model(folder, family=family)
    from scripts import full_size

    print(f"Writing random weights of {family} ...", file=sys.stderr, flush=True)
    return full_size.write_base(family, folder, torch.float16, device=device)


def write_images(folder: Path, resolution: int) -> Path:
    """Write square images of the resolution, each with a caption."""
    folder.mkdir(parents=True)
    for number in range(NUM_IMAGES):
        photograph((resolution, resolution), number).save(folder / f"{number}.jpg", quality=90)
        (folder / f"{number}.txt").write_text(f"photograph number {number}, a tag, another")
    return folder
