"""The table of families: what a file is, and that nothing else names a family."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ed2.models.families.facts import FACTS, Shapes, family_of_config, is_trainable_pipeline
from ed2.models.families.kinds import kind_of
from ed2.registry import FAMILIES
from ed2.settings.files import PROGRAM_DIR
from ed2.vram.shapes import traced

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
def test_the_kind_of_a_file_follows_from_names_and_shapes(family: str, shapes: Shapes) -> None:
    assert kind_of(shapes) == family


FAMILY_WORD = re.compile(r"\b(sd[12]|sdxl|SD ?[12](\.x)?|StableDiffusion\w*)\b", re.IGNORECASE)
MAY_NAME_A_FAMILY = ("ed2/registry.py", "ed2/models/families/", "ed2/demo/")


def words_in_code(path: Path) -> Iterator[str]:
    """The names and texts in a module, without comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value
        for name in ("id", "attr", "name", "module"):
            if isinstance(value := getattr(node, name, None), str):
                yield value


def test_only_the_table_the_registry_and_its_module_name_a_family() -> None:
    """Adding a family is a module, a row of facts, a row in the registry and its trace."""
    naming = []
    for path in sorted((PROGRAM_DIR / "ed2").rglob("*.py")):
        place = path.relative_to(PROGRAM_DIR).as_posix()
        if not place.startswith(MAY_NAME_A_FAMILY):
            naming += [f"{place}: {word}" for word in words_in_code(path) if FAMILY_WORD.search(word)]
    assert naming == []


def test_every_family_has_what_the_table_and_the_plan_need() -> None:
    assert set(FAMILIES) == set(FACTS)
    for family in FACTS.values():
        assert [part.name for part in family.parts][:2] == ["unet", "vae"]
        assert family.text_encoders
        assert all(traced(name).downscale for name in family.traces)
        assert family_of_config(family.unet_config) is family


def test_only_pipelines_of_trainable_families_are_accepted() -> None:
    names = (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionXLPipeline",
        "StableDiffusion3Pipeline",
        "FluxPipeline",
    )
    assert [is_trainable_pipeline(name) for name in names] == [True, True, True, False, False]
