"""LoRA files: names against sd-scripts and diffusers, extraction and merging against each other and by hand."""

import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ed2.__main__ import main
from ed2.errors import ModelError
from ed2.models.families.facts import FACTS
from ed2.models.files.source import open_base
from ed2.models.lora.arithmetic import RankOptions, extract, with_layer
from ed2.models.lora.file import LoraLayer, read_lora
from ed2.models.lora.names import LAYERS, carrying, kohya_names

CONFIGS = Path(__file__).parents[2] / "ed2" / "models" / "files" / "configs"
FAMILIES = ("sd1", "sd2", "sdxl")
PIPELINES: dict[str, Any] = {"sdxl": StableDiffusionXLPipeline}
SIDES = {"A": "down", "B": "up"}
KINDS: dict[str, Any] = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def base(family: str, request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(family)
    return path


def shapes_of(family: str, part: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network of full size, without its weights."""
    config = json.loads((CONFIGS / family / part / "config.json").read_text())
    with torch.device("meta"):
        is_unet = part == "unet"
        network = UNet2DConditionModel.from_config(config) if is_unet else KINDS[part](CLIPTextConfig(**config))
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def names_in_files(family: str, part: str, layers: str) -> set[str]:
    shapes = shapes_of(family, part)
    modules = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]
    names = kohya_names(FACTS[family], FACTS[family].part(part), modules)
    return {names[module] for module in carrying(shapes, layers)}


# What sd-scripts reports when it starts: "create LoRA for U-Net: 722 modules", and so on.
COUNTS = [
    ("sd1", "unet", 192),
    ("sd1", "text_encoder", 72),
    ("sd2", "unet", 192),
    ("sdxl", "unet", 722),
    ("sdxl", "text_encoder", 72),
    ("sdxl", "text_encoder_2", 192),
]


@pytest.mark.parametrize(("family", "part", "count"), COUNTS)
def test_as_many_layers_as_sd_scripts_trains(family: str, part: str, count: int) -> None:
    assert len(names_in_files(family, part, "linear")) == count
    assert names_in_files(family, part, "attention") < names_in_files(family, part, "linear")


# Written from networks/lora.py and library/sdxl_original_unet.py of sd-scripts, and from files on the web.
PUBLISHED = {
    ("sd1", "unet"): """
        lora_unet_down_blocks_0_attentions_0_proj_in
        lora_unet_down_blocks_2_attentions_1_transformer_blocks_0_attn2_to_out_0
        lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj
        lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_2
        lora_unet_down_blocks_0_resnets_0_conv1
        lora_unet_down_blocks_0_resnets_1_time_emb_proj
        lora_unet_down_blocks_0_downsamplers_0_conv
        lora_unet_up_blocks_0_upsamplers_0_conv
        lora_unet_up_blocks_3_resnets_2_conv_shortcut""",
    ("sd1", "text_encoder"): """
        lora_te_text_model_encoder_layers_0_self_attn_q_proj
        lora_te_text_model_encoder_layers_11_mlp_fc2""",
    ("sdxl", "unet"): """
        lora_unet_input_blocks_4_1_proj_in
        lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q
        lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_out_0
        lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj
        lora_unet_output_blocks_0_1_transformer_blocks_9_ff_net_2
        lora_unet_output_blocks_5_1_proj_out
        lora_unet_input_blocks_1_0_in_layers_2
        lora_unet_input_blocks_1_0_emb_layers_1
        lora_unet_input_blocks_2_0_out_layers_3
        lora_unet_input_blocks_4_0_skip_connection
        lora_unet_input_blocks_3_0_op
        lora_unet_middle_block_2_out_layers_3
        lora_unet_output_blocks_2_2_conv""",
    ("sdxl", "text_encoder"): "lora_te1_text_model_encoder_layers_11_self_attn_out_proj",
    ("sdxl", "text_encoder_2"): "lora_te2_text_model_encoder_layers_31_mlp_fc1",
}


@pytest.mark.parametrize(("family", "part"), list(PUBLISHED))
def test_names_are_those_of_sd_scripts(family: str, part: str) -> None:
    assert set(PUBLISHED[family, part].split()) <= names_in_files(family, part, "all")


def tuned(base: Path, folder: Path, *, only_layers: bool = True) -> Path:
    """The model with all weights that a LoRA can change moved a little, or all weights."""
    generator = torch.Generator().manual_seed(1)
    for file in base.rglob("*"):
        target = folder / file.relative_to(base)
        if file.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    for file in folder.rglob("*.safetensors"):
        if file.parent.name == "vae":
            continue
        tensors = load_file(file)
        moved = set(tensors)
        if only_layers:
            moved = {f"{name}.weight" for name in carrying({k: tuple(v.shape) for k, v in tensors.items()}, "all")}
        for name in sorted(moved):
            tensors[name] += 0.05 * torch.randn(tensors[name].shape, generator=generator)
        save_file(tensors, file, {"format": "pt"})
    return folder


def weights_of(model: Path) -> dict[str, dict[str, Tensor]]:
    source = open_base(model, {})
    return {part: source.read(part).state_dict() for part in source.dtypes if part != "vae"}


@pytest.mark.parametrize("suffix", ["", ".safetensors"], ids=["folder", "file"])
def test_a_lora_of_full_rank_gives_the_trained_model_back(
    base: Path, family: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, lora, merged = tuned(base, tmp_path / "tuned"), tmp_path / "own.safetensors", tmp_path / f"merged{suffix}"
    small_configs = tmp_path / "configs" / family
    tuned(base, small_configs)
    monkeypatch.setattr("ed2.models.files.source.CONFIGS", tmp_path / "configs")
    for file in small_configs.rglob("*.safetensors"):
        file.unlink()
    flags = ["--rank", "600", "--export_dtype", "fp32"]
    assert main(["extract-lora", str(base), str(trained), str(lora), *flags]) == 0
    assert main(["merge", str(base), str(lora), str(merged)]) == 0
    expected, found, before = weights_of(trained), weights_of(merged), weights_of(base)
    for part, tensors in expected.items():
        assert any(not torch.equal(tensors[name], before[part][name]) for name in tensors)
        for name, tensor in tensors.items():
            torch.testing.assert_close(found[part][name], tensor, rtol=1e-5, atol=1e-5)


def test_the_error_of_a_lower_rank_is_what_the_singular_values_say(sd1: Path, tmp_path: Path) -> None:
    before, after = weights_of(sd1), weights_of(tuned(sd1, tmp_path / "tuned"))
    found = extract(FACTS["sd1"], before, after, RankOptions(5), lambda *_: None)
    module = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    difference = after["unet"][f"{module}.weight"] - before["unet"][f"{module}.weight"]
    layer = found.layers[f"lora_unet_{module.replace('.', '_')}"]
    assert (layer.rank, layer.alpha) == (5, 5.0)
    lost = (difference - layer.change()).square().sum()
    torch.testing.assert_close(lost, torch.linalg.svdvals(difference)[5:].square().sum())
    convolution = found.layers["lora_unet_down_blocks_0_resnets_0_conv1"]
    assert (convolution.down.shape[1:], convolution.up.shape[1:]) == ((32, 3, 3), (5, 1, 1))


def test_what_a_lora_keeps_and_cannot_hold_is_measured(sd1: Path, tmp_path: Path) -> None:
    before, after = weights_of(sd1), weights_of(tuned(sd1, tmp_path / "tuned", only_layers=False))
    found = extract(FACTS["sd1"], before, after, RankOptions(600, keep=0.8), lambda *_: None)
    share, text = found.shares["unet"], found.shares["text_encoder"]
    assert 0.8 <= share.of_layers < 0.9
    whole = sum(float((after["unet"][k] - before["unet"][k]).double().square().sum()) for k in before["unet"])
    assert share.in_layers + share.elsewhere == pytest.approx(whole)
    assert text.lost_elsewhere > share.lost_elsewhere > 0  # the embedding of tokens is most of a tiny text encoder
    assert len({layer.rank for layer in found.layers.values()}) > 1


@pytest.fixture
def warnings_of_diffusers(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("layers", list(LAYERS))
def test_diffusers_applies_the_file_as_merging_does(
    base: Path, family: str, layers: str, tmp_path: Path, warnings_of_diffusers: pytest.LogCaptureFixture
) -> None:
    trained, lora, target = tuned(base, tmp_path / "tuned"), tmp_path / "own.safetensors", tmp_path / "merged"
    flags = ["--rank", "4", "--export_dtype", "fp32", "--lora_layers", layers]
    assert main(["extract-lora", str(base), str(trained), str(lora), *flags]) == 0
    tensors = load_file(lora)
    for name in tensors:  # an alpha other than the rank has to be obeyed
        if name.endswith(".alpha"):
            tensors[name] = torch.tensor(2.5)
    with safe_open(lora, framework="pt") as file:
        metadata = file.metadata()
    save_file(tensors, lora, metadata)
    assert main(["merge", str(base), str(lora), str(target)]) == 0

    kind = PIPELINES.get(family, StableDiffusionPipeline)
    applied, merged = (kind.from_pretrained(path, local_files_only=True) for path in (base, target))
    warnings_of_diffusers.clear()
    applied.load_lora_weights(str(tmp_path), weight_name=lora.name)
    assert not [record for record in warnings_of_diffusers.records if "key" in record.getMessage()]
    num_applied = sum(name.endswith("lora_A.default_0.weight") for name in applied.unet.state_dict())
    assert num_applied == sum("lora_unet" in name and "down" in name.rsplit(".", 2)[1] for name in tensors)
    for one, other in zip(predictions(applied), predictions(merged), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    untouched = kind.from_pretrained(base, local_files_only=True)
    assert not torch.allclose(predictions(untouched)[0], predictions(merged)[0], atol=1e-3)


@torch.no_grad()
def predictions(pipeline: Any) -> list[Tensor]:
    """What the networks of a pipeline give for fixed inputs."""
    generator = torch.Generator().manual_seed(2)
    encoders = [getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2")]
    tokens = torch.arange(77)[None]
    states = [encoder(tokens, output_hidden_states=True) for encoder in encoders if encoder]
    hidden = torch.cat([state.hidden_states[-1] for state in states], dim=-1)
    added = {"text_embeds": torch.ones(1, 32), "time_ids": torch.ones(1, 6)}
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    return [hidden, pipeline.unet(latents, 500, hidden, added_cond_kwargs=added).sample]


def as_kohya_writes(name: str) -> str:
    """A name of diffusers' file in the manner of kohya's scripts."""
    module, kind = name.rsplit(".lora_", 1)
    return f"lora_unet_{module.replace('.', '_')}.lora_{SIDES[kind[0]]}.weight"


def test_a_lora_in_the_names_of_diffusers_is_merged(base: Path, family: str, tmp_path: Path) -> None:
    kind = PIPELINES.get(family, StableDiffusionPipeline)
    pipeline = kind.from_pretrained(base, local_files_only=True)
    torch.manual_seed(3)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2"]
    pipeline.unet.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=targets, init_lora_weights=False))
    pipeline.unet.save_lora_adapter(tmp_path / "theirs", safe_serialization=True)
    (file,) = (tmp_path / "theirs").glob("*.safetensors")
    # As a pipeline writes it, with the network's name in front, and as kohya's scripts name what diffusers has.
    renamed = {f"unet.{name}": tensor for name, tensor in load_file(file).items()}
    if family == "sdxl":
        renamed = {as_kohya_writes(name): tensor for name, tensor in load_file(file).items()}
    save_file(renamed, file)
    assert main(["merge", str(base), str(file), str(tmp_path / "merged"), "--weight", "1"]) == 0
    merged = kind.from_pretrained(tmp_path / "merged", local_files_only=True)
    torch.testing.assert_close(predictions(merged)[1], predictions(pipeline)[1], rtol=1e-5, atol=1e-5)


def test_the_weight_of_a_merge_multiplies_the_lora() -> None:
    layer = LoraLayer(torch.randn(2, 5), torch.randn(7, 2), alpha=1.0)
    weight = torch.randn(7, 5)
    assert torch.allclose(with_layer(weight, layer, 0.8), weight + 0.8 * 0.5 * layer.up @ layer.down)
    assert torch.equal(with_layer(weight, layer, 0.0), weight)


@pytest.mark.parametrize("is_convolution", [False, True], ids=["matrix", "convolution"])
def test_a_dora_is_merged_as_peft_applies_it(is_convolution: bool) -> None:
    torch.manual_seed(4)
    plain = torch.nn.Conv2d(5, 7, 3) if is_convolution else torch.nn.Linear(5, 7)
    config = LoraConfig(r=2, lora_alpha=1, target_modules=["0"], use_dora=True, init_lora_weights=False)
    adapted = inject_adapter_in_model(config, torch.nn.Sequential(copy.deepcopy(plain)))[0]
    magnitude = adapted.lora_magnitude_vector["default"].weight
    magnitude.data *= 1.3
    down, up = adapted.lora_A["default"].weight.detach(), adapted.lora_B["default"].weight.detach()
    layer = LoraLayer(down, up, alpha=1.0, dora_scale=magnitude.detach().reshape(7, *[1] * (plain.weight.ndim - 1)))
    inputs = torch.randn(2, 5, 4, 4) if is_convolution else torch.randn(2, 5)
    expected = adapted(inputs)
    plain.weight.data = with_layer(plain.weight.data, layer, 1.0)
    torch.testing.assert_close(plain(inputs), expected, rtol=1e-5, atol=1e-5)


def test_a_dora_of_another_program_scales_rows_or_columns(tmp_path: Path) -> None:
    torch.manual_seed(5)
    weight, up, down = torch.randn(6, 6, 3, 3), torch.randn(6, 2, 1, 1), torch.randn(2, 6, 3, 3)
    scale, name = torch.rand(6) + 0.5, "lora_unet_mid_block_resnets_0_conv1"
    pieces = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(1.0)}
    for side, shape in enumerate([(6, 1, 1, 1), (1, 6, 1, 1)]):  # of kohya's scripts, and of older LyCORIS
        save_file({**pieces, f"{name}.dora_scale": scale.reshape(shape)}, tmp_path / "a.safetensors")
        (layer,) = read_lora(tmp_path / "a.safetensors").values()
        after = with_layer(weight, layer, 1.0)
        torch.testing.assert_close(after.transpose(0, side).flatten(1).norm(dim=1), scale)
    peft = {
        "unet.a.lora_A.weight": down,
        "unet.a.lora_B.weight": up,
        "unet.a.lora_magnitude_vector": scale[None, :, None, None],
    }
    save_file(peft, tmp_path / "b.safetensors")
    (layer,) = read_lora(tmp_path / "b.safetensors").values()
    assert layer.dora_scale is not None and layer.dora_scale.shape == (6, 1, 1, 1)
    torch.testing.assert_close(with_layer(weight, layer, 1.0).flatten(1).norm(dim=1), scale)


def refused(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    capsys.readouterr()
    assert main([str(word) for word in command]) != 0
    return capsys.readouterr().err


def test_what_cannot_be_merged_or_extracted_is_said(
    sd1: Path, sd2: Path, sdxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = tmp_path / "own.safetensors"
    assert main(["extract-lora", str(sd1), str(tuned(sd1, tmp_path / "tuned")), str(lora), "--rank", "2"]) == 0
    assert "already exists" in refused(capsys, "extract-lora", sd1, tmp_path / "tuned", lora)
    assert "an SDXL model" in refused(capsys, "extract-lora", sd1, sdxl, tmp_path / "a.safetensors")
    assert "no layer of it differs" in refused(capsys, "extract-lora", sd1, sd1, tmp_path / "a.safetensors")
    assert "ends in .safetensors" in refused(capsys, "extract-lora", sd1, tmp_path / "tuned", tmp_path / "a.bin2")
    large = {"lora_unet_mid_block_attentions_0_proj_in": (640, 640), "lora_te9_what": (2, 2)}
    for name, (rows, columns) in large.items():
        file = tmp_path / f"{name}.safetensors"
        layer = {f"{name}.lora_down.weight": torch.ones(1, columns), f"{name}.lora_up.weight": torch.ones(rows, 1)}
        save_file(layer, file)
        assert "does not fit" in refused(capsys, "merge", sd1, file, tmp_path / "merged")
    page = tmp_path / "page.safetensors"
    page.write_text("<html>")
    assert "cannot be used" in refused(capsys, "merge", sd1, page, tmp_path / "merged")
    save_file({"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.ones(2, 2)}, tmp_path / "loha.safetensors")
    assert "another kind than LoRA" in refused(capsys, "merge", sd1, tmp_path / "loha.safetensors", tmp_path / "merged")
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    assert "it is not a LoRA" in refused(capsys, "merge", sd1, tmp_path / "other.safetensors", tmp_path / "merged")
    tensors = load_file(lora)
    del tensors[min(name for name in tensors if name.endswith("up.weight"))]
    save_file(tensors, tmp_path / "half.safetensors")
    assert "layers are incomplete" in refused(capsys, "merge", sd1, tmp_path / "half.safetensors", tmp_path / "merged")
    for flags in (("--rank", "0"), ("--rank", "x"), ("--keep", "2"), ("--lora_layers", "some"), ("--what",)):
        assert "Invalid command line" in refused(capsys, "extract-lora", "a", "b", "c.safetensors", *flags)
    assert "three paths" in refused(capsys, "merge", "a", "b")
    assert not (tmp_path / "merged").exists()


def test_layers_that_a_model_lacks_are_left_out_and_named(
    sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = tmp_path / "own.safetensors"
    assert main(["extract-lora", str(sd1), str(tuned(sd1, tmp_path / "tuned")), str(lora), "--rank", "2"]) == 0
    tensors = load_file(lora)
    num_layers = len(read_lora(lora))
    extra = {"lora_te_text_model_encoder_layers_23_mlp_fc1": (4, 4)}
    for name, (rows, columns) in extra.items():
        tensors |= {f"{name}.lora_down.weight": torch.ones(1, columns), f"{name}.lora_up.weight": torch.ones(rows, 1)}
    save_file(tensors, lora)
    capsys.readouterr()
    assert main(["merge", str(sd1), str(lora), str(tmp_path / "merged.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "Left out" in said and "encoder_layers_23_mlp_fc1" in said
    assert f"Added {num_layers} layers." in said


@pytest.mark.parametrize(
    "shapes",
    [
        {"down": (2, 4), "up": (4, 2), "alpha": (2,)},
        {"down": (), "up": (4, 2)},
        {"down": (2, 4), "up": (4,)},
        {"down": (0, 4), "up": (4, 0)},
        {"down": (2, 4), "up": (4, 2), "dora_scale": ()},
    ],
    ids=["alpha", "down", "up", "rank 0", "dora"],
)
def test_a_layer_of_impossible_shapes_is_refused(shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    ends = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha", "dora_scale": "dora_scale"}
    tensors = {f"lora_unet_a.{ends[kind]}": torch.ones(shape) for kind, shape in shapes.items()}
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(ModelError, match="1 of its layers have impossible shapes, such as unet_a"):
        read_lora(tmp_path / "odd.safetensors")
