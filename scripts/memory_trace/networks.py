"""The real networks of each family on the meta device: shapes without content."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ed2.models.lora.names import LAYERS, carrying

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "sd1": ROOT / "ed2/models/files/configs/sd1",
    "sd2": ROOT / "ed2/models/files/configs/sd2",
    "sdxl": ROOT / "ed2/models/files/configs/sdxl",
    "demo": ROOT / "ed2/demo/base",
}
TEXT_CLASSES = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}

SMALL = 4096
"""Tensors of fewer numbers than this keep a state in fp32 under 8-bit optimizers."""

logging.getLogger("transformers").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Blueprint:
    """How to make the networks of a model; each call makes new ones.

    Attributes:
        text_encoders: names and makers.
        text_width: of the embeddings that the UNet attends to.
        pooled_width: of the vector that guides it besides, with the sizes of the image; 0 for none.
    """

    unet: Callable[[], Any]
    text_encoders: Mapping[str, Callable[[], Any]]
    vae: Callable[[], Any]
    text_width: int
    pooled_width: int = 0

    @classmethod
    def of_folder(cls, folder: Path) -> Blueprint:
        """Read the configurations of a diffusers folder."""

        def config(part: str) -> dict[str, Any]:
            return dict(json.loads((folder / part / "config.json").read_text(encoding="utf-8")))

        texts = {name: config(name) for name in TEXT_CLASSES if (folder / name).is_dir()}
        return cls(
            unet=lambda: _plain(UNet2DConditionModel, config("unet")),
            text_encoders={name: partial(_text_encoder, TEXT_CLASSES[name], values) for name, values in texts.items()},
            vae=lambda: _plain(AutoencoderKL, config("vae")),
            text_width=config("unet")["cross_attention_dim"],
            pooled_width=texts.get("text_encoder_2", {}).get("projection_dim", 0),
        )


def blueprint(family: str) -> Blueprint:
    """The networks of a family, or of the demo."""
    return Blueprint.of_folder(FOLDERS[family])


def _text_encoder(kind: Any, config: Mapping[str, Any]) -> Any:
    return kind(CLIPTextConfig(**config))


def _plain(kind: Any, config: Mapping[str, Any]) -> Any:
    return kind(**{name: value for name, value in config.items() if not name.startswith("_")})


def made(build: Callable[[], Any]) -> Any:
    """What `build` makes, without content."""
    with torch.device("meta"):
        return build()


def counts(plan: Blueprint) -> dict[str, dict[str, int]]:
    """Numbers of weights by part: all, in tensors of under 4096, in the largest tensor, and in Adafactor's averages.

    Of a text encoder also the layers, the numbers in one of them, and in its embeddings and final norm.
    """
    found = {"unet": _count(made(plan.unet))}
    for name, make in plan.text_encoders.items():
        text = made(make)
        inner = getattr(text, "text_model", text)
        found[name] = _count(text) | {
            "layers": len(inner.encoder.layers),
            "layer": _numbers(inner.encoder.layers[0]),
            "embeddings": _numbers(inner.embeddings),
            "final_norm": _numbers(inner.final_layer_norm),
        }
    return found | {"vae": _count(made(plan.vae))}


def _count(module: nn.Module) -> dict[str, int]:
    shapes = [parameter.shape for parameter in module.parameters()]
    sizes = [shape.numel() for shape in shapes]
    return {
        "all": sum(sizes),
        "small": sum(size for size in sizes if size < SMALL),
        "largest": max(sizes),
        "factored": sum(map(_factored, shapes)),
    }


def _factored(shape: torch.Size) -> int:
    """Numbers of transformers' Adafactor for a tensor: a row and a column of each matrix of its last two sides."""
    return shape.numel() if len(shape) < 2 else shape.numel() // shape[-1] + shape.numel() // shape[-2]


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def adapted(plan: Blueprint) -> dict[str, dict[str, list[list[int]]]]:
    """The layers that a LoRA changes, by network and value of `lora_layers`, as `vram.adapters.AdaptedLayers`."""
    networks = {"unet": made(plan.unet), **{name: made(make) for name, make in plan.text_encoders.items()}}
    found: dict[str, dict[str, list[list[int]]]] = {}
    for name, network in networks.items():
        shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
        found[name] = {layers: _adapted(shapes, layers) for layers in LAYERS}
    return found


def _adapted(shapes: Mapping[str, tuple[int, ...]], layers: str) -> list[list[int]]:
    """Outputs, inputs, side of the kernel (0 for a matrix), and how many layers are alike."""
    weights = [shapes[f"{module}.weight"] for module in carrying(shapes, layers)]
    alike = Counter((shape[0], shape[1], shape[2] if len(shape) > 2 else 0) for shape in weights)
    return [[*kind, count] for kind, count in sorted(alike.items())]
