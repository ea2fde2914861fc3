"""Base models of random weights in full size, written as folders, and images to train them on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn

from ed2.models.families.facts import FACTS
from ed2.models.files.folder import build_network
from ed2.models.files.source import shipped_files
from scripts.benchmark.fixtures import photograph

NUM_IMAGES = 8
DEVIATION = 0.02
"""Of random weights: small enough that no activation overflows."""


def write_base(folder: Path, family: str, *, is_tiny: bool, device: torch.device) -> Path:
    """Write a model of a family in fp16, or the tests' tiny one."""
    if is_tiny:
        from tests.tiny import make_model

        return make_model(folder, family=family)
    files = shipped_files(family)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    torch.manual_seed(0)
    for part in FACTS[family].parts:
        print(f"Writing a random {part.name} of {family} ...", file=sys.stderr, flush=True)
        with torch.device("meta"):
            network = build_network(part, _config(files[part.config]))
        network = network.half().to_empty(device=device)
        _fill(network)
        network.save_pretrained(folder / part.name, safe_serialization=True)
        (folder / part.config).write_bytes(files[part.config])
        del network
    return folder


def _config(content: bytes) -> dict[str, object]:

    return dict(json.loads(content))


@torch.no_grad()
def _fill(network: nn.Module) -> None:
    """Random matrices; norms that change nothing; no biases."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, DEVIATION)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def write_images(folder: Path, resolution: int) -> Path:
    """Write square images of the resolution, each with a caption."""
    folder.mkdir(parents=True)
    for number in range(NUM_IMAGES):
        photograph((resolution, resolution), number).save(folder / f"{number}.jpg", quality=90)
        (folder / f"{number}.txt").write_text(f"photograph number {number}, a tag, another")
    return folder
