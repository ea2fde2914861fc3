"""What a single file is, told by the names and shapes of its tensors alone. Needs no torch."""

import re
from collections.abc import Iterable, Mapping

from ed2.models.files.layout_names import CLIP_PREFIX, OPEN_CLIP_PREFIX, UNET_PREFIX

Shapes = Mapping[str, tuple[int, ...]]
Marks = tuple[tuple[str, str], ...]

_NO_STABLE_DIFFUSION: Marks = (
    # LoRA before Flux and SD3: a LoRA's names contain those of the model that it is for.
    ("lora", r"^(lora|lycoris)_|[._]lora[._]|\.(hada|lokr|oft)_"),
    ("embedding", r"^(emb_params|string_to_param|string_to_token|clip_l|clip_g)(\.|$)"),
    ("controlnet", r"^(control_model|input_hint_block|zero_convs|controlnet_\w+)\."),
    ("flux", r"(^|\.)double_blocks\."),
    ("sd3", r"(^|\.)joint_blocks\."),
    ("unclip", r"^noise_augmentor\."),
)
_BY_TEXT_ENCODER: Marks = (
    ("sdxl", r"^conditioner\.embedders\.1\."),
    ("sdxl_refiner", r"^conditioner\.embedders\.0\.model\."),
    ("sd2", "^" + re.escape(OPEN_CLIP_PREFIX)),
    ("sd1", "^" + re.escape(CLIP_PREFIX)),
)
_BY_WIDTH = {768: "sd1", 1024: "sd2", 1280: "sdxl_refiner", 2048: "sdxl"}
_BY_CHANNELS = {9: "inpainting", 8: "pix2pix", 7: "upscaler", 5: "depth"}
_LONE_PARTS: Marks = (
    ("vae", r"^(first_stage_model\.|vae\.)?(en|de)coder\.conv_in\."),
    ("text_encoder", r"^(cond_stage_model\.|text_model\.|encoder\.layers\.)"),
    ("diffusers_unet", r"^down_blocks\.0\."),
)

KINDS = {
    "sdxl": "an SDXL model",
    "sdxl_refiner": "the refiner of SDXL",
    "inpainting": "an inpainting model",
    "pix2pix": "an InstructPix2Pix model",
    "depth": "a depth model",
    "upscaler": "an upscaler",
    "unclip": "an unCLIP model",
    "flux": "a Flux model",
    "sd3": "an SD 3 model",
    "controlnet": "a ControlNet",
    "lora": "a LoRA, an addition to a model",
    "embedding": "a textual embedding",
    "vae": "a VAE alone",
    "text_encoder": "a text encoder alone",
    "diffusers_unet": "the UNet of a diffusers folder alone",
    "unknown": "no Stable Diffusion model that is known here",
}
"""What `family_of` finds and what cannot be trained, in words."""


def family_of(shapes: Shapes) -> str:
    """Return what a single file is, from its tensors' names and shapes.

    Whether an SD2 model predicts the noise or v cannot be told from these.

    Returns:
        The families that can be trained: `sd1`, `sd2`, `sdxl`. Models of the same kind that take more than noisy
        latents: `inpainting`, `pix2pix`, `depth`, `upscaler`, `unclip`. Others: `sdxl_refiner`, `flux`, `sd3`,
        `controlnet`, `lora`, `embedding`; parts that stand alone: `vae`, `text_encoder`, `diffusers_unet`; else
        `unknown`.
    """
    conv_in = shapes.get(f"{UNET_PREFIX}input_blocks.0.0.weight", ())
    family = _marked(_NO_STABLE_DIFFUSION, shapes)
    if not family and len(conv_in) == 4:
        family = _unet_family(shapes, in_channels=conv_in[1])
    return family or _marked(_LONE_PARTS, shapes) or "unknown"


def _unet_family(shapes: Shapes, *, in_channels: int) -> str:
    if in_channels != 4:
        return _BY_CHANNELS.get(in_channels, "unknown")
    # Text encoders before the width of the attention: a small model may have any width.
    return _marked(_BY_TEXT_ENCODER, shapes) or _BY_WIDTH.get(_cross_attention_width(shapes), "unknown")


def _cross_attention_width(shapes: Shapes) -> int:
    """Return the width of the text that the UNet attends to; 0 if it attends to none."""
    return next((shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and shape), 0)


def _marked(marks: Marks, names: Iterable[str]) -> str:
    """Return the first kind of which some name bears the mark; empty if there is none."""
    for kind, pattern in marks:
        if any(map(re.compile(pattern).search, names)):
            return kind
    return ""
