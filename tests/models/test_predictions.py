"""Whether a single file predicts what its folder predicts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ed2.app.convert import convert
from ed2.models.compute import DTYPES
from ed2.models.families.facts import FACTS
from ed2.models.files import source as source_module
from ed2.models.files.source import open_base
from ed2.models.predictions import compare_predictions, memory_for, other_size
from tests.tiny import make_model

FAMILIES = ["sd1", "sd2", "sdxl"]


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
    assert not other_size(saved, opened)
    found = list(compare_predictions(saved, opened))
    assert [difference.part for difference in found] == [part.name for part in FACTS[family].parts]
    assert all(difference.is_equal for difference in found)
    assert all((difference.relative < 1e-6) == (name == "fp32") for difference in found)


def test_a_changed_network_is_named(configs: Path, tmp_path: Path) -> None:
    other = shutil.copytree(configs / "sd1", tmp_path / "other")
    file = other / "text_encoder" / "model.safetensors"
    save_file({key: tensor * 1.5 for key, tensor in load_file(file).items()}, file, {"format": "pt"})
    convert(other, tmp_path / "one.safetensors")
    found = compare_predictions(open_base(configs / "sd1", {}), open_base(tmp_path / "one.safetensors", {}))
    assert {difference.part: difference.is_equal for difference in found} == {
        "unet": True,
        "vae": True,
        "text_encoder": False,
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
    assert other_size(saved, open_base(tmp_path / "one.safetensors", {})) == "its vae does not have the size of SD 1.x"


def test_the_memory_is_that_of_the_largest_network_as_stored_and_in_fp32(configs: Path, tmp_path: Path) -> None:
    convert(configs / "sd1", tmp_path / "one.safetensors", None, torch.float16)
    weights = load_file(configs / "sd1" / "unet" / "diffusion_pytorch_model.safetensors")
    assert memory_for(open_base(tmp_path / "one.safetensors", {})) == 6 * sum(t.numel() for t in weights.values())
