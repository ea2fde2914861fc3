"""The single file against real models, against the list of SD 1.5's own file, and against what diffusers reads."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders import single_file_utils
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ed2.errors import CheckpointError, ModelError
from ed2.models.files.layout import diffusers_tensors, single_file_tensors
from ed2.models.files.layout_names import UNetShape
from ed2.models.files.tensor_file import write_single_file

Parts = dict[str, dict[str, Tensor]]
Models = dict[str, torch.nn.Module]
SD15_FILE = Path(__file__).parent / "data" / "sd15-single-file.json"
FILE_ONLY = {
    "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
    "conditioner.embedders.1.model.logit_scale",
}
"""What a single file of SDXL holds beyond a diffusers folder."""


LINEAR = {"use_linear_projection": True}
ADDED = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 72}
FAMILIES: dict[str, dict[str, object]] = {
    "sd1": {},
    "sd2": LINEAR,
    "sdxl": {**LINEAR, **ADDED, "transformer_layers_per_block": (1, 2, 3)},
}
"""Per family, what its UNet's config says."""
BLOCKS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
"""Three levels, the first without attention."""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def sd_unet(widths: tuple[int, ...], **config: object) -> UNet2DConditionModel:
    """Return a UNet with the blocks of Stable Diffusion 1 and 2, which are the defaults of the class."""
    return UNet2DConditionModel(sample_size=64, block_out_channels=widths, **config)


def sd_vae(widths: tuple[int, ...], **config: object) -> AutoencoderKL:
    down, up = (("DownEncoderBlock2D",) * len(widths), ("UpDecoderBlock2D",) * len(widths))
    return AutoencoderKL(block_out_channels=widths, down_block_types=down, up_block_types=up, **config)


def clip(width: int, layers: int, heads: int, kind: type = CLIPTextModel, **config: object) -> CLIPTextModel:
    settings = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    return kind(CLIPTextConfig(**settings, num_attention_heads=heads, **config))


def with_second_encoder(family: str, models: Models, layers: int, **config: object) -> Models:
    """Add a second text encoder, of another width and with a projection that is not square, where a family has one."""
    if family == "sdxl":
        models["text_encoder_2"] = clip(48, layers, 4, CLIPTextModelWithProjection, projection_dim=40, **config)
    return models


def demo_sized(family: str) -> Models:
    """Return models of other depths than Stable Diffusion's, their first level without attention."""
    layers = {"layers_per_block": 1, "attention_head_dim": 4, "norm_num_groups": 4, "cross_attention_dim": 64}
    unet = sd_unet((32, 64, 96), **BLOCKS, **layers, **FAMILIES[family])
    vae = sd_vae((16, 32, 32), layers_per_block=1, norm_num_groups=2, mid_block_add_attention=False)
    models: Models = {"unet": unet, "vae": vae, "text_encoder": clip(64, 2, 4, vocab_size=100)}
    return with_second_encoder(family, models, 1, vocab_size=100)


def medium_sized(family: str) -> Models:
    """Return models with every layer of Stable Diffusion's, but narrow."""
    widths, blocks = ((16, 32, 48), BLOCKS) if family == "sdxl" else ((16, 32, 48, 48), {})
    sizes = {"cross_attention_dim": 64, "attention_head_dim": 4, "norm_num_groups": 8}
    vocabulary = {"vocab_size": 514, "hidden_act": "gelu" if FAMILIES[family] else "quick_gelu"}
    models: Models = {
        "unet": sd_unet(widths, **blocks, **sizes, **FAMILIES[family]),
        "vae": sd_vae((16, 24, 32, 32), layers_per_block=2, norm_num_groups=8, sample_size=64),
        "text_encoder": clip(64, 3, 4, **vocabulary),
    }
    return with_second_encoder(family, models, 4, **vocabulary)


def with_random_weights(models: Models) -> Models:
    """Fill every tensor: fresh norms are all ones and zeros, and a mix-up between them would go unseen."""
    generator = torch.Generator().manual_seed(0)
    for model in models.values():
        for parameter in model.parameters():
            parameter.data.normal_(generator=generator)
    return models


def parts_of(models: Models) -> Parts:
    return {name: model.state_dict() for name, model in models.items()}


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def assert_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def with_text_model(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"text_model.{name}": tensor for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def sd15() -> Parts:
    with torch.device("meta"):
        vae = sd_vae((128, 256, 512, 512), layers_per_block=2)
        unet = sd_unet((320, 640, 1280, 1280), cross_attention_dim=768)
        return parts_of({"unet": unet, "vae": vae, "text_encoder": clip(768, 12, 12)})


@pytest.fixture(scope="module")
def sd21(sd15: Parts) -> Parts:
    heads = (5, 10, 20, 20)
    with torch.device("meta"):
        unet = sd_unet((320, 640, 1280, 1280), cross_attention_dim=1024, attention_head_dim=heads, **LINEAR)
        text_encoder = clip(1024, 23, 16, hidden_act="gelu", projection_dim=512)
    return sd15 | {"unet": unet.state_dict(), "text_encoder": text_encoder.state_dict()}


@pytest.mark.parametrize("rename", [dict, with_text_model])
def test_sd15_has_the_names_and_shapes_of_the_classic_file(sd15: Parts, rename: type[dict[str, Tensor]]) -> None:
    classic = {name: tuple(shape) for name, shape in json.loads(SD15_FILE.read_text()).items()}
    text_encoder = rename(sd15["text_encoder"]) | {"text_model.embeddings.position_ids": torch.arange(77)}
    tensors = single_file_tensors("sd1", sd15 | {"text_encoder": text_encoder})
    assert len(tensors) == 1130
    assert shapes_of(tensors) == classic


def test_sd15_comes_back_with_the_shapes_of_the_folder(sd15: Parts) -> None:
    back = diffusers_tensors(single_file_tensors("sd1", sd15))
    assert (back.family, back.left_over) == ("sd1", {})
    assert shapes_of(back.parts["unet"]) == shapes_of(sd15["unet"])
    assert shapes_of(back.parts["vae"]) == shapes_of(sd15["vae"])
    assert shapes_of(back.parts["text_encoder"]) == shapes_of(with_text_model(sd15["text_encoder"]))


def test_sd21_is_what_diffusers_reads_as_sd21(sd21: Parts) -> None:
    tensors = single_file_tensors("sd2", sd21)
    unet = single_file_utils.convert_ldm_unet_checkpoint(tensors, {"layers_per_block": 2})
    blocks = {"down_block_types": range(4), "up_block_types": range(4)}
    vae = single_file_utils.convert_ldm_vae_checkpoint(tensors, blocks)
    with torch.device("meta"):
        reader = clip(1024, 0, 16)
    text_encoder = single_file_utils.convert_open_clip_checkpoint(reader, tensors)
    assert shapes_of(unet) == shapes_of(sd21["unet"])
    assert shapes_of(vae) == shapes_of(sd21["vae"])
    assert shapes_of(text_encoder) == shapes_of(with_text_model(sd21["text_encoder"]))
    assert len(tensors) == 686 + 248 + 4 + 23 * 12
    assert tensors["cond_stage_model.model.transformer.resblocks.22.attn.in_proj_weight"].shape == (3072, 1024)
    assert tensors["model.diffusion_model.input_blocks.1.1.proj_in.weight"].shape == (320, 320)


def test_extra_tensors_of_an_sd2_file_survive(sd21: Parts) -> None:
    prefix = "cond_stage_model.model."
    last = {f"{prefix}transformer.resblocks.23.attn.in_proj_bias": torch.ones(3072)}
    extra = {**last, f"{prefix}text_projection": torch.ones(1024, 1024), "alphas_cumprod": torch.ones(1000)}
    norm = f"{prefix}ln_final.weight"
    base = single_file_tensors("sd2", sd21, extra=extra | {norm: torch.ones(1)})
    assert base[norm].shape == (1024,), "the trained part wins over the extra one"
    back = diffusers_tensors(base)
    assert_same(back.left_over, extra)
    assert "text_model.encoder.layers.23.self_attn.q_proj.bias" not in back.parts["text_encoder"]
    assert shapes_of(back.parts["text_encoder"]) == shapes_of(with_text_model(sd21["text_encoder"]))


@pytest.mark.parametrize("build", [demo_sized, medium_sized])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_restored_bit_for_bit(family: str, build: Callable[..., Models]) -> None:
    models = with_random_weights(build(family))
    parts = parts_of(models)
    tensors = single_file_tensors(family, parts)
    back = diffusers_tensors(tensors)
    assert (back.family, set(back.left_over)) == (family, FILE_ONLY if family == "sdxl" else set())
    assert back.parts.keys() == parts.keys()
    for name, found in back.parts.items():
        assert_same(found, with_text_model(parts[name]) if name == "text_encoder" else parts[name])
    names = [name.removeprefix("model.diffusion_model.") for name in tensors if "diffusion_model" in name]
    config = models["unet"].config
    has_attention = tuple("CrossAttn" in kind for kind in config["down_block_types"])
    shape = UNetShape(config["layers_per_block"], has_attention)
    assert shape == UNetShape.of_diffusers(parts["unet"].keys()) == UNetShape.of_ldm(names)


def tiny_tokenizer() -> CLIPTokenizer:
    letters = [chr(i) for i in range(256, 512)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("family", "suffix"), [("sd1", ".safetensors"), ("sd2", ".ckpt"), ("sdxl", ".safetensors")])
def test_diffusers_loads_the_written_file(tmp_path: Path, family: str, suffix: str) -> None:
    models = with_random_weights(medium_sized(family))
    kind, others, tokenizers = StableDiffusionPipeline, {"safety_checker": None, "feature_extractor": None}, 1
    if family == "sdxl":
        kind, others, tokenizers = StableDiffusionXLPipeline, {"add_watermarker": False}, 2
    names = ("tokenizer", "tokenizer_2")[:tokenizers]
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    pipeline = kind(**models, **{name: tiny_tokenizer() for name in names}, scheduler=scheduler, **others)
    pipeline.save_pretrained(tmp_path / "configs")
    for weights in (tmp_path / "configs").rglob("*.safetensors"):
        weights.unlink()
    path = tmp_path / f"model{suffix}"
    write_single_file(path, single_file_tensors(family, parts_of(models)))
    loaded = kind.from_single_file(path, config=str(tmp_path / "configs"), local_files_only=True, **others)
    for name, model in models.items():
        assert_same(getattr(loaded, name).state_dict(), model.state_dict())


def test_an_old_folders_vae_gives_the_same_file() -> None:
    parts = parts_of(with_random_weights(medium_sized("sd1")))
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old_vae = {}
    for name, tensor in parts["vae"].items():
        head, attention, tail = name.partition("mid_block.attentions.0.")
        module, _, kind = tail.rpartition(".")
        old_vae[f"{head}{attention}{old_names.get(module, module)}.{kind}" if attention else name] = tensor
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in old_vae
    assert_same(single_file_tensors("sd1", parts), single_file_tensors("sd1", parts | {"vae": old_vae}))


def test_a_file_without_text_model_in_its_names_is_read_too(sd15: Parts) -> None:
    position_ids = {"cond_stage_model.transformer.embeddings.position_ids": torch.arange(77)}
    tensors = single_file_tensors("sd1", sd15)
    flat = {name.replace(".text_model.", "."): tensor for name, tensor in tensors.items()}
    back = diffusers_tensors(flat | position_ids)
    assert shapes_of(back.parts["text_encoder"]) == shapes_of(with_text_model(sd15["text_encoder"]))
    assert back.left_over.keys() == position_ids.keys()


def test_a_weight_without_a_place_is_named(sd15: Parts) -> None:
    with pytest.raises(ModelError, match=r"1 weights have no place there, such as add_embedding\.linear_1\.weight"):
        single_file_tensors("sd1", sd15 | {"unet": sd15["unet"] | {"add_embedding.linear_1.weight": torch.ones(1)}})


def test_a_unet_with_uneven_blocks_is_refused(sd15: Parts) -> None:
    unet = {name: tensor for name, tensor in sd15["unet"].items() if not name.startswith("down_blocks.2.resnets.1")}
    with pytest.raises(ModelError, match="different numbers of layers"):
        single_file_tensors("sd1", sd15 | {"unet": unet})


def test_a_file_of_another_family_is_refused() -> None:
    with pytest.raises(ModelError, match="It is flux; only SD"):
        diffusers_tensors({"double_blocks.0.img_mod.lin.weight": torch.ones(1)})


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_written_file_has_floats_of_the_requested_type_only(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    whole = torch.randn(100, 100)
    given = {"turned": whole.T, "part": whole[:1], "same": whole, "numbers": torch.arange(3)}
    write_single_file(path, given, {"ed2": "yes"}, dtype=torch.float16)
    write_single_file(tmp_path / f"asis{suffix}", given)
    tensors, metadata = read(path)
    assert_same(tensors, {name: value.half() if value.is_floating_point() else value for name, value in given.items()})
    assert metadata == {"ed2": "yes"}
    assert_same(read(tmp_path / f"asis{suffix}")[0], given)
    assert path.stat().st_size < 2 * 20_300 + 4_000, "a view takes none of its neighbours along"
    assert {file.name for file in tmp_path.iterdir()} == {f"asis{suffix}", f"model{suffix}"}


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix == ".ckpt":
        checkpoint = torch.load(path, weights_only=True)
        return checkpoint["state_dict"], checkpoint.get("metadata", {})
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files to fail midway")
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_write_that_fails_midway_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    import resource

    path = tmp_path / f"model{suffix}"
    write_single_file(path, {"weight": torch.ones(3)})
    old = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="the disk is full or does not support files of this size"):
            write_single_file(path, {"weight": torch.ones(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no such bits")
def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_single_file(tmp_path / "model.safetensors", {"weight": torch.ones(3)})
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_of_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Use \.safetensors or \.ckpt"):
        write_single_file(tmp_path / "model.bin", {})
