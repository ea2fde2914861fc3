"""The real networks of each family on the meta device: shapes without content."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "sd1": ROOT / "ed2/models/files/configs/sd1",
    "sd2": ROOT / "ed2/models/files/configs/sd2",
    "demo": ROOT / "ed2/demo/base",
}
# Source: the config.json files of stabilityai/stable-diffusion-xl-base-1.0; what is not named is the class's default.
SDXL_UNET = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SDXL_TEXT = (
    {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
     "hidden_act": "gelu", "projection_dim": 1280},
)  # fmt: skip

SMALL = 4096
"""Tensors of fewer numbers than this keep a state in fp32 under 8-bit optimizers."""

logging.getLogger("transformers").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Blueprint:
    """How to make the networks of a model; each call makes new ones."""

    unet: Callable[[], Any]
    text_encoders: Callable[[], list[Any]]
    vae: Callable[[], Any]
    text_width: int

    @classmethod
    def of_folder(cls, folder: Path) -> Blueprint:
        """Read the configurations of a diffusers folder."""

        def config(part: str) -> dict[str, Any]:
            return dict(json.loads((folder / part / "config.json").read_text(encoding="utf-8")))

        return cls(
            unet=lambda: _plain(UNet2DConditionModel, config("unet")),
            text_encoders=lambda: [CLIPTextModel(CLIPTextConfig(**config("text_encoder")))],
            vae=lambda: _plain(AutoencoderKL, config("vae")),
            text_width=config("unet")["cross_attention_dim"],
        )


def blueprint(family: str) -> Blueprint:
    """The networks of a family, or of the demo."""
    if family != "sdxl":
        return Blueprint.of_folder(FOLDERS[family])
    sd1 = Blueprint.of_folder(FOLDERS["sd1"])
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    return Blueprint(
        unet=lambda: UNet2DConditionModel(**SDXL_UNET),
        text_encoders=lambda: [
            kind(CLIPTextConfig(vocab_size=49408, **values)) for kind, values in zip(kinds, SDXL_TEXT, strict=True)
        ],
        vae=sd1.vae,
        text_width=2048,
    )


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
    for number, text in enumerate(made(plan.text_encoders), 1):
        inner = getattr(text, "text_model", text)
        found["text_encoder" if number == 1 else f"text_encoder_{number}"] = _count(text) | {
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
