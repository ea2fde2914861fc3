"""A single file that does not open as the model that was saved gets no name; and its predictions are compared."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ed2.app.convert import convert
from ed2.checkpoint import export
from ed2.checkpoint.export import Exporter
from ed2.errors import CheckpointError
from ed2.models.compute import DTYPES
from ed2.models.families.facts import FACTS
from ed2.models.files import source as source_module
from ed2.models.files import tensor_file
from ed2.models.files.description import Description
from ed2.models.files.header import read_header
from ed2.models.files.self_check import compare_predictions, comparison_bytes, size_difference
from ed2.models.files.source import open_base
from tests.tiny import make_model, with_old_attention_names

Tensors = dict[str, Tensor]
DENOISER = "model.diffusion_model."
FAMILIES = ["sd1", "sd2", "sdxl"]


@pytest.mark.parametrize("container", ["safetensors", "ckpt"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_file_of_every_family_is_written(family: str, container: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", family=family, prediction_type="v_prediction")
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(with_old_attention_names(load_file(vae)), vae, {"format": "pt"})
    exporter = Exporter(tmp_path / "files", "run", container)  # type: ignore[arg-type]
    assert exporter.write(folder, family, "v_prediction").is_file()


def swap_two(tensors: Tensors) -> None:
    names = [f"{DENOISER}input_blocks.1.1.transformer_blocks.0.attn1.to_{letter}.weight" for letter in "qk"]
    tensors[names[0]], tensors[names[1]] = (tensors[name] for name in reversed(names))


def leave_out(tensors: Tensors) -> None:
    del tensors[f"{DENOISER}time_embed.0.weight"]


def turn(tensors: Tensors) -> None:
    name = f"{DENOISER}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    tensors[name] = tensors[name].T


def add(tensors: Tensors) -> None:
    tensors[f"{DENOISER}input_blocks.1.1.norm.scale"] = torch.ones(1)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (swap_two, "unet/down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight did not read back"),
        (leave_out, "unet/time_embedding.linear_1.weight is missing"),
        (turn, "unet/down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight did not read back"),
        (add, "unet/down_blocks.0.attentions.0.norm.scale did not read back"),
    ],
)
def test_a_mistake_in_the_layout_is_found_by_reading_the_file(
    spoil: Callable[[Tensors], None], told: str, sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    translate = export.single_file_tensors

    def spoiled(*given: object) -> Tensors:
        tensors = translate(*given)  # type: ignore[arg-type]
        spoil(tensors)
        return tensors

    monkeypatch.setattr(export, "single_file_tensors", spoiled)
    with pytest.raises(CheckpointError, match=told):
        Exporter(tmp_path, "run").write(sd1, "sd1", "epsilon")
    assert not list(tmp_path.iterdir())


def test_a_byte_that_the_drive_changes_is_found(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, read = tensor_file.FORMATS[".safetensors"]

    def damage(tensors: Tensors, path: Path, metadata: dict[str, str], dtype: torch.dtype | None) -> None:
        write(tensors, path, metadata, dtype)
        content = bytearray(path.read_bytes())
        start, _ = read_header(path).places["first_stage_model.decoder.conv_in.bias"]
        content[start] ^= 1
        path.write_bytes(content)

    monkeypatch.setitem(tensor_file.FORMATS, ".safetensors", (damage, read))  # type: ignore[misc]
    with pytest.raises(CheckpointError, match=r"vae/decoder.conv_in.bias did not read back as it was written"):
        Exporter(tmp_path, "run").write(sd1, "sd1", "epsilon")
    assert not list(tmp_path.iterdir())


def test_a_file_that_would_be_taken_for_another_model_is_refused(
    sd2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Description, "tensors", lambda self: {"v_pred": torch.empty(0)})
    with pytest.raises(CheckpointError, match="It opens as a model that predicts v_prediction, not epsilon"):
        Exporter(tmp_path, "run").write(sd2, "sd2", "epsilon")
    monkeypatch.undo()
    translate = export.single_file_tensors

    def with_lora(*given: object) -> Tensors:
        return {**translate(*given), "lora_unet_x.lora_up.weight": torch.ones(1)}  # type: ignore[arg-type]

    monkeypatch.setattr(export, "single_file_tensors", with_lora)
    with pytest.raises(CheckpointError, match=r"It opens as a LoRA, .* not as an SD 2.x model"):
        Exporter(tmp_path, "run").write(sd2, "sd2", "v_prediction")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny models, whose configurations stand in for those of the full-size ones."""
    for family in FAMILIES:
        make_model(tmp_path / "configs" / family, family=family)
    monkeypatch.setattr(source_module, "CONFIGS", tmp_path / "configs")
    return tmp_path / "configs"


@pytest.mark.parametrize("name", list(DTYPES))
@pytest.mark.parametrize("family", FAMILIES)
def test_each_network_predicts_the_same_but_for_rounding(family: str, name: str, configs: Path, tmp_path: Path) -> None:
    convert(configs / family, tmp_path / "one.safetensors", "epsilon", DTYPES[name])
    saved, opened = open_base(configs / family, {}), open_base(tmp_path / "one.safetensors", {})
    assert not size_difference(saved, opened)
    found = list(compare_predictions(saved, opened))
    assert [difference.part for difference in found] == [part.title for part in FACTS[family].parts]
    assert all(difference.is_equal for difference in found)
    assert all((difference.relative < 1e-6) == (name == "fp32") for difference in found)


def test_a_changed_network_is_named(configs: Path, tmp_path: Path) -> None:
    other = shutil.copytree(configs / "sd1", tmp_path / "other")
    file = other / "text_encoder" / "model.safetensors"
    save_file({key: tensor * 1.5 for key, tensor in load_file(file).items()}, file, {"format": "pt"})
    convert(other, tmp_path / "one.safetensors")
    found = compare_predictions(open_base(configs / "sd1", {}), open_base(tmp_path / "one.safetensors", {}))
    assert {difference.part: difference.is_equal for difference in found} == {
        "UNet": True,
        "VAE": True,
        "text encoder": False,
    }


def test_no_draw_of_others_is_disturbed(configs: Path, tmp_path: Path) -> None:
    convert(configs / "sdxl", tmp_path / "one.safetensors")
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    list(compare_predictions(open_base(configs / "sdxl", {}), open_base(tmp_path / "one.safetensors", {})))
    assert torch.equal(torch.rand(3), wanted)


def test_another_size_than_that_of_the_family_is_named(configs: Path, tmp_path: Path) -> None:
    convert(configs / "sd1", tmp_path / "one.safetensors")
    config = configs / "sd1" / "vae" / "config.json"
    saved = open_base(configs / "sd1", {})
    config.write_text(json.dumps({**json.loads(config.read_text()), "block_out_channels": [8, 8, 8]}))
    assert (
        size_difference(saved, open_base(tmp_path / "one.safetensors", {}))
        == "its VAE does not have the size of SD 1.x"
    )


def test_the_memory_is_that_of_the_largest_network_as_stored_and_in_fp32(configs: Path, tmp_path: Path) -> None:
    convert(configs / "sd1", tmp_path / "one.safetensors", None, torch.float16)
    weights = load_file(configs / "sd1" / "unet" / "diffusion_pytorch_model.safetensors")
    assert comparison_bytes(open_base(tmp_path / "one.safetensors", {})) == 6 * sum(t.numel() for t in weights.values())
