"""SDXL's single file against the list of the published one's names and shapes, and what it holds beyond a folder.

The list is made as the published code builds the model: the UNet by Stability-AI/generative-models,
`sgm/modules/diffusionmodules/openaimodel.py` with `configs/inference/sd_xl_base.yaml`; the second text encoder by
mlfoundations/open_clip, `transformer.py` with ViT-bigG-14. VAE and first text encoder have SD 1.5's names and shapes.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ed2.models.families.facts import FACTS
from ed2.models.files.folder import build_network
from ed2.models.files.layout import diffusers_tensors, single_file_tensors
from ed2.models.files.source import ModelFile, shipped_files
from tests.models.test_layout import SD15_FILE, Parts, medium_sized, parts_of, shapes_of, with_random_weights

Shape = tuple[int, ...]
CHANNELS, CHANNEL_MULT, NUM_RES_BLOCKS, ATTENTION_RESOLUTIONS = 320, (1, 2, 4), 2, (4, 2)
TRANSFORMER_DEPTH, CONTEXT_DIM, ADM_IN_CHANNELS, TIME_DIM = (1, 2, 10), 2048, 2816, 1280
FIRST, SECOND = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
POSITION_IDS, LOGIT_SCALE = f"{FIRST}embeddings.position_ids", f"{SECOND}logit_scale"
COUNTS = {"model.diffusion_model.": 1680, "first_stage_model.": 248, FIRST: 197, SECOND: 390}
NUM_WEIGHTS = {
    "unet": 2_567_463_684,
    "vae": 83_653_863,
    "text_encoder": 123_060_480,
    "text_encoder_2": 694_659_840,
}


def layer(name: str, *shape: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def resnet(name: str, given: int, channels: int) -> Iterator[tuple[str, Shape]]:
    yield from layer(f"{name}.in_layers.0", given)
    yield from layer(f"{name}.in_layers.2", channels, given, 3, 3)
    yield from layer(f"{name}.emb_layers.1", channels, TIME_DIM)
    yield from layer(f"{name}.out_layers.0", channels)
    yield from layer(f"{name}.out_layers.3", channels, channels, 3, 3)
    if given != channels:
        yield from layer(f"{name}.skip_connection", channels, given, 1, 1)


def transformer(name: str, width: int, depth: int) -> Iterator[tuple[str, Shape]]:
    yield from layer(f"{name}.norm", width)
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        for attention, context in (("attn1", width), ("attn2", CONTEXT_DIM)):
            yield from layer(f"{block}.{attention}.to_q", width, width, bias=False)
            yield from layer(f"{block}.{attention}.to_k", width, context, bias=False)
            yield from layer(f"{block}.{attention}.to_v", width, context, bias=False)
            yield from layer(f"{block}.{attention}.to_out.0", width, width)
        yield from layer(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from layer(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            yield from layer(f"{block}.{norm}", width)
    yield from layer(f"{name}.proj_in", width, width)
    yield from layer(f"{name}.proj_out", width, width)


def published_unet() -> Iterator[tuple[str, Shape]]:
    yield from layer("time_embed.0", TIME_DIM, CHANNELS)
    yield from layer("time_embed.2", TIME_DIM, TIME_DIM)
    yield from layer("label_emb.0.0", TIME_DIM, ADM_IN_CHANNELS)
    yield from layer("label_emb.0.2", TIME_DIM, TIME_DIM)
    yield from layer("input_blocks.0.0", CHANNELS, 4, 3, 3)
    kept, width, scale = [CHANNELS], CHANNELS, 1
    for level, factor in enumerate(CHANNEL_MULT):
        for _ in range(NUM_RES_BLOCKS):
            yield from resnet(f"input_blocks.{len(kept)}.0", width, factor * CHANNELS)
            width = factor * CHANNELS
            if scale in ATTENTION_RESOLUTIONS:
                yield from transformer(f"input_blocks.{len(kept)}.1", width, TRANSFORMER_DEPTH[level])
            kept.append(width)
        if level < len(CHANNEL_MULT) - 1:
            yield from layer(f"input_blocks.{len(kept)}.0.op", width, width, 3, 3)
            kept.append(width)
            scale *= 2
    yield from resnet("middle_block.0", width, width)
    yield from transformer("middle_block.1", width, TRANSFORMER_DEPTH[-1])
    yield from resnet("middle_block.2", width, width)
    for number in range(len(kept)):
        level = len(CHANNEL_MULT) - 1 - number // (NUM_RES_BLOCKS + 1)
        block = f"output_blocks.{number}"
        yield from resnet(f"{block}.0", width + kept.pop(), CHANNEL_MULT[level] * CHANNELS)
        width = CHANNEL_MULT[level] * CHANNELS
        if 2**level in ATTENTION_RESOLUTIONS:
            yield from transformer(f"{block}.1", width, TRANSFORMER_DEPTH[level])
        if level and number % (NUM_RES_BLOCKS + 1) == NUM_RES_BLOCKS:
            yield from layer(f"{block}.{1 + (2**level in ATTENTION_RESOLUTIONS)}.conv", width, width, 3, 3)
    yield from layer("out.0", width)
    yield from layer("out.2", 4, width, 3, 3)


def published_second_encoder(width: int = 1280, layers: int = 32) -> Iterator[tuple[str, Shape]]:
    yield "positional_embedding", (77, width)
    yield "text_projection", (width, width)
    yield "logit_scale", ()
    yield "token_embedding.weight", (49408, width)
    yield from layer("ln_final", width)
    for number in range(layers):
        block = f"transformer.resblocks.{number}"
        yield from layer(f"{block}.ln_1", width)
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from layer(f"{block}.attn.out_proj", width, width)
        yield from layer(f"{block}.ln_2", width)
        yield from layer(f"{block}.mlp.c_fc", 4 * width, width)
        yield from layer(f"{block}.mlp.c_proj", width, 4 * width)


def published() -> dict[str, Shape]:
    listed = {f"model.diffusion_model.{name}": shape for name, shape in published_unet()}
    listed |= {f"{SECOND}{name}": shape for name, shape in published_second_encoder()}
    for name, shape in json.loads(SD15_FILE.read_text()).items():
        if name.startswith(("first_stage_model.", "cond_stage_model.")):
            listed[name.replace("cond_stage_model.", "conditioner.embedders.0.")] = tuple(shape)
    return {**listed, POSITION_IDS: (1, 77)}


@pytest.fixture(scope="module")
def full_size() -> Parts:
    """The weights of SDXL base as its configurations say, without content."""
    source = ModelFile(Path("none"), "sdxl", shipped_files("sdxl"), {})
    with torch.device("meta"):
        return {part.name: build_network(part, source.config(part.config)).state_dict() for part in FACTS["sdxl"].parts}


def test_the_file_has_exactly_the_published_names_and_shapes(full_size: Parts) -> None:
    listed = published()
    assert {prefix: sum(name.startswith(prefix) for name in listed) for prefix in COUNTS} == COUNTS
    assert len(listed) == sum(COUNTS.values()) == 2515
    assert {part: sum(tensor.numel() for tensor in found.values()) for part, found in full_size.items()} == NUM_WEIGHTS
    assert shapes_of(single_file_tensors("sdxl", full_size)) == listed


def test_the_folder_comes_back_from_the_file(full_size: Parts) -> None:
    back = diffusers_tensors(single_file_tensors("sdxl", full_size))
    assert (back.family, set(back.left_over)) == ("sdxl", {POSITION_IDS, LOGIT_SCALE})
    for part, tensors in full_size.items():
        prefix = "text_model." if part == "text_encoder" else ""
        assert shapes_of(back.parts[part]) == {prefix + name: shape for name, shape in shapes_of(tensors).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_a_folder_lacks_is_added_as_published_and_a_base_keeps_its_own(dtype: torch.dtype) -> None:
    parts = parts_of(with_random_weights(medium_sized("sdxl")))
    parts = {part: {name: tensor.to(dtype) for name, tensor in found.items()} for part, found in parts.items()}
    tensors = single_file_tensors("sdxl", parts)
    assert tensors[POSITION_IDS].equal(torch.arange(77)[None]) and tensors[POSITION_IDS].dtype == torch.int64
    assert tensors[LOGIT_SCALE].equal(torch.tensor(math.log(100)).to(dtype)) and tensors[LOGIT_SCALE].dtype == dtype
    own = {LOGIT_SCALE: torch.tensor(4.5), "denoiser.sigmas": torch.rand(1000), POSITION_IDS: torch.ones(1, 77)}
    again = single_file_tensors("sdxl", parts, extra=own)
    assert again.keys() == tensors.keys() | own.keys()
    assert all(again[name].equal(tensor) for name, tensor in own.items())


def test_attention_is_stacked_and_the_projection_turned_as_open_clip_multiplies() -> None:
    models = with_random_weights(medium_sized("sdxl"))
    tensors = single_file_tensors("sdxl", parts_of(models))
    encoder = models["text_encoder_2"]
    first, block = encoder.text_model.encoder.layers[0].self_attn, f"{SECOND}transformer.resblocks.0.attn"
    assert tensors[f"{block}.in_proj_bias"].equal(
        torch.cat([first.q_proj.bias, first.k_proj.bias, first.v_proj.bias]).detach()
    )
    hidden = torch.randn(2, 48)
    assert tensors[f"{SECOND}text_projection"].shape == (48, 40)
    torch.testing.assert_close(hidden @ tensors[f"{SECOND}text_projection"], encoder.text_projection(hidden).detach())
