"""Files of every kind are told apart by the names and shapes in them."""

import json
from pathlib import Path

import pytest

from ed2.models.files.layout_family import Shapes, family_of

SD15_FILE = Path(__file__).parent / "data" / "sd15-single-file.json"
SD1 = {name: tuple(shape) for name, shape in json.loads(SD15_FILE.read_text()).items()}
BARE = {name: shape for name, shape in SD1.items() if not name.startswith("cond_stage_model.")}
CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"


def with_attention_to(width: int) -> Shapes:
    """Return an SD file without text encoder whose UNet attends to text of this width."""
    ends = ("attn2.to_k.weight", "attn2.to_v.weight")
    return {name: (shape[0], width) if name.endswith(ends) else shape for name, shape in BARE.items()}


@pytest.mark.parametrize(
    ("family", "shapes"),
    [
        ("sd1", SD1),
        ("sd1", BARE),
        ("sd2", with_attention_to(1024)),
        ("sdxl", with_attention_to(2048)),
        ("unknown", with_attention_to(64)),
        ("sd1", {**with_attention_to(64), "cond_stage_model.transformer.text_model.final_layer_norm.bias": (64,)}),
        ("sd1", {**with_attention_to(64), "cond_stage_model.transformer.final_layer_norm.bias": (64,)}),
        ("sd2", {**with_attention_to(64), "cond_stage_model.model.ln_final.bias": (64,)}),
        ("sdxl", {**with_attention_to(64), "conditioner.embedders.1.model.ln_final.weight": (64,)}),
        ("sdxl_refiner", {**BARE, "conditioner.embedders.0.model.ln_final.weight": (1280,)}),
        ("unclip", {**BARE, "noise_augmentor.data_mean": (1, 1024)}),
        ("inpainting", {**SD1, CONV_IN: (320, 9, 3, 3)}),
        ("pix2pix", {**SD1, CONV_IN: (320, 8, 3, 3)}),
        ("depth", {**SD1, CONV_IN: (320, 5, 3, 3)}),
        ("unknown", {**SD1, CONV_IN: (320, 16, 3, 3)}),
        ("vae", {name: shape for name, shape in SD1.items() if name.startswith("first_stage_model.")}),
        ("vae", {"encoder.conv_in.weight": (128, 3, 3, 3)}),
        ("lora", {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": (4, 3072)}),
        ("lora", {"transformer.joint_blocks.0.attn.to_q.lora_A.weight": (4, 1536)}),
        ("lora", {"unet.down_blocks.0.attentions.0.processor.to_q_lora.down.weight": (4, 320)}),
        ("embedding", {"emb_params": (4, 768)}),
        ("embedding", {"string_to_param": ()}),
        ("embedding", {"clip_l": (4, 768), "clip_g": (4, 1280)}),
        ("controlnet", {"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}),
        ("flux", {"model.diffusion_model.double_blocks.0.img_attn.proj.weight": (3072, 3072)}),
        ("flux", {"double_blocks.0.img_attn.proj.weight": (3072, 3072)}),
        ("sd3", {"model.diffusion_model.joint_blocks.0.x_block.attn.proj.weight": (1536, 1536)}),
        ("text_encoder", {"text_model.final_layer_norm.bias": (768,)}),
        ("diffusers_unet", {"conv_in.weight": (320, 4, 3, 3), "down_blocks.0.resnets.0.norm1.weight": (320,)}),
        ("unknown", {"layers.0.weight": (3,)}),
        ("unknown", {}),
    ],
)
def test_the_family_is_told_from_names_and_shapes(family: str, shapes: Shapes) -> None:
    assert family_of(shapes) == family
