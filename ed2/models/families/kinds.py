"""What a single file is, from the names and shapes of its tensors. Needs no torch."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ed2.models.families.facts import DEFAULT, FACTS, UNET_PREFIX, Shapes, family_of_config

Marks = tuple[tuple[str, str], ...]

OTHER_KINDS = {
    "sdxl_refiner": "the refiner of SDXL",
    "inpainting": "an inpainting model",
    "pix2pix": "an InstructPix2Pix model",
    "depth": "a depth model",
    "upscaler": "an upscaler",
    "unclip": "an unCLIP model",
    "flux": "a Flux model",
    "sd3": "an SD 3 model",
    "edm": "an SDXL model with another kind of noise (EDM), such as CosXL or Playground 2.5",
    "controlnet": "a ControlNet",
    "lora": "a LoRA, which is an addition to a model",
    "embedding": "a textual inversion embedding",
    "vae": "only a VAE",
    "text_encoder": "only a text encoder",
    "diffusers_unet": "only the UNet of a diffusers folder",
    "unknown": "nothing that is known here",
}
"""Descriptions of the other kinds that `kind_of` returns."""
CHANNEL_KINDS = {9: "inpainting", 8: "pix2pix", 7: "upscaler", 5: "depth"}
"""Models that take more than noisy latents, by the input channels of their UNet."""

_OTHER_KIND_MARKS: Marks = (
    # LoRA before Flux and SD3: a LoRA's names contain those of the model that it is for.
    ("lora", r"^(lora|lycoris)_|[._]lora[._]|\.(hada|lokr|oft)_"),
    ("embedding", r"^(emb_params|string_to_param|string_to_token|clip_l|clip_g)(\.|$)"),
    ("controlnet", r"^(control_model|input_hint_block|zero_convs|controlnet_\w+)\."),
    ("flux", r"(^|\.)double_blocks\."),
    ("sd3", r"(^|\.)joint_blocks\."),
    ("unclip", r"^noise_augmentor\."),
    # Names as in ComfyUI, comfy/supported_models.py.
    ("edm", r"^edm_(mean|std|vpred\.sigma_max)$"),
)
_REFINER = ("sdxl_refiner", r"^conditioner\.embedders\.0\.model\.")
_REFINER_WIDTH = 1280
_LONE_PARTS: Marks = (
    ("vae", r"^(first_stage_model\.|vae\.)?(en|de)coder\.conv_in\."),
    ("text_encoder", r"^(cond_stage_model\.|text_model\.|encoder\.layers\.)"),
    ("diffusers_unet", r"^down_blocks\.0\."),
)


def described(kind: str) -> str:
    """What `kind_of` found, in words with an article."""
    return OTHER_KINDS[kind] if kind in OTHER_KINDS else f"an {FACTS[kind].title} model"


def kind_of_config(unet_config: Mapping[str, Any]) -> str:
    """What a diffusers folder is, from the config.json of its UNet: a family's name, or one of `OTHER_KINDS`."""
    family = family_of_config(unet_config)
    is_refiner = len(family.text_encoders) > 1 and unet_config.get("cross_attention_dim") == _REFINER_WIDTH
    return _REFINER[0] if is_refiner else family.name


def kind_of(shapes: Shapes) -> str:
    """What a single file is, from the names and shapes of its tensors: a family's name, or one of `OTHER_KINDS`.

    They do not show whether an SD2 model predicts noise or v.
    """
    conv_in = shapes.get(f"{UNET_PREFIX}input_blocks.0.0.weight", ())
    kind = _marked(_OTHER_KIND_MARKS, shapes)
    if not kind and len(conv_in) == 4:
        kind = _kind_of_unet(shapes, in_channels=conv_in[1])
    return kind or _marked(_LONE_PARTS, shapes) or "unknown"


def _kind_of_unet(shapes: Shapes, *, in_channels: int) -> str:
    if in_channels != DEFAULT.latent_channels:
        return CHANNEL_KINDS.get(in_channels, "unknown")
    # Newest first: SDXL has an encoder of the refiner as well. Text encoders before the width of the attention: a small
    # model may have any width.
    newest_first = [(family.name, family.text_mark) for family in reversed(FACTS.values())]
    marked = _marked((newest_first[0], _REFINER, *newest_first[1:]), shapes)
    widths = {family.text_width: family.name for family in FACTS.values()} | {_REFINER_WIDTH: _REFINER[0]}
    return marked or widths.get(_cross_attention_width(shapes), "unknown")


def _cross_attention_width(shapes: Shapes) -> int:
    """The width of the text that the UNet attends to; 0 if it attends to none."""
    return next((shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and shape), 0)


def _marked(marks: Iterable[tuple[str, str]], names: Iterable[str]) -> str:
    """The first kind whose mark matches one of the names; empty if there is none."""
    for kind, pattern in marks:
        if any(map(re.compile(pattern).search, names)):
            return kind
    return ""
