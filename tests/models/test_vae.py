"""A VAE in place of the base model's: from any layout, read the same, and refused where it cannot be right."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ed2.errors import ModelError
from ed2.models.families.facts import VAE_PREFIX
from ed2.models.files.base_model import base_model_problems
from ed2.models.files.folder import open_folder
from ed2.models.files.source import open_base
from tests.hostile.models import VAE
from tests.models.test_single_file import tensors_of, write
from tests.tiny import make_model, with_old_attention_names


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with other weights than `sd1`, its VAE in fp16."""
    folder = make_model(tmp_path_factory.mktemp("other") / "model", seed=5)
    save_file({key: t.half() for key, t in load_file(folder / VAE).items()}, folder / VAE, {"format": "pt"})
    return folder


def single_file_vae(model: Path, prefix: str) -> dict[str, Tensor]:
    """The VAE by the names of a single file, in fp16."""
    found = {name: tensor for name, tensor in tensors_of(model).items() if name.startswith(VAE_PREFIX)}
    return {prefix + name.removeprefix(VAE_PREFIX): tensor.half() for name, tensor in found.items()}


def places(other: Path, folder: Path) -> dict[str, Path]:
    """The same VAE in every layout."""
    lone = shutil.copytree(other / "vae", folder / "lone")
    return {
        "model folder": other,
        "folder": lone,
        "part of a file": write(folder / "model.safetensors", single_file_vae(other, VAE_PREFIX)),
        "file of web UIs": write(folder / "a.safetensors", single_file_vae(other, "")),
        "with a discriminator": write(
            folder / "b.sft", {**single_file_vae(other, ""), "loss.logvar": torch.zeros(1).half()}
        ),
        "diffusers file": write(folder / "c.safetensors", load_file(other / VAE)),
        "old names": write(folder / "d.safetensors", with_old_attention_names(load_file(other / VAE))),
    }


def test_a_vae_of_any_layout_takes_the_place_of_the_models(sd1: Path, other: Path, tmp_path: Path) -> None:
    wanted = open_folder(other).read("vae").state_dict()
    for name, place in places(other, tmp_path).items():
        source = open_base(sd1, {}, place)
        found = source.read("vae").state_dict()
        assert found.keys() == wanted.keys(), name
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name
        assert source.dtypes["vae"] is torch.float16 and source.dtypes["unet"] is torch.float32, name
        unet = source.read("unet").state_dict()
        assert all(torch.equal(tensor, unet[key]) for key, tensor in open_folder(sd1).read("unet").state_dict().items())


def test_a_vae_completes_a_pruned_file_and_a_folder_without_one(
    sd1: Path, other: Path, tmp_path: Path, tiny_configs: Path
) -> None:
    pruned = {name: tensor for name, tensor in tensors_of(sd1).items() if not name.startswith(VAE_PREFIX)}
    file = write(tmp_path / "pruned.safetensors", pruned)
    folder = shutil.copytree(sd1, tmp_path / "folder", ignore=shutil.ignore_patterns("vae"))
    wanted = open_folder(other).read("vae").state_dict()
    for base in (file, folder):
        with pytest.raises(ModelError, match="vae"):
            open_base(base, {})
        for vae in (other, write(tmp_path / "vae.safetensors", single_file_vae(other, ""))):
            source = open_base(base, {}, vae)
            assert "vae/config.json" in source.small_files
            found = source.read("vae").state_dict()
            assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def changed_config(other: Path, folder: Path, **values: object) -> Path:
    place = shutil.copytree(other / "vae", folder / "vae")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, **values}))
    return place


WRONG_CONFIGS = {
    "sdxl": ({"scaling_factor": 0.13025}, "its latents have the scale 0.13025, those of SD 1.x 0.18215"),
    "text": ({"scaling_factor": "0.18215"}, "its latents have the scale '0.18215'"),
    "other class": ({"_class_name": "AutoencoderTiny"}, "this is a 'AutoencoderTiny'"),
    "code": ({"auto_map": {"x": "y.z"}}, "asks for code"),
    "wider": ({"block_out_channels": [8, 16, 32]}, "is of another size|is missing"),
}


@pytest.mark.parametrize("name", WRONG_CONFIGS)
def test_a_vae_whose_configuration_cannot_be_right_is_refused(
    name: str, sd1: Path, other: Path, tmp_path: Path
) -> None:
    values, words = WRONG_CONFIGS[name]
    with pytest.raises(ModelError, match=f"(?s)The VAE .* cannot be used.*{words}"):
        open_base(sd1, {}, changed_config(other, tmp_path, **values)).read("vae")


def wrong_files(folder: Path, sd1: Path, other: Path) -> dict[Path, str]:
    tensors = single_file_vae(other, "")
    sixteen = {**tensors, "decoder.conv_in.weight": torch.zeros(16, 16, 3, 3)}
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}
    (folder / "page.safetensors").write_text("<html>Sign in</html>")
    (folder / "empty").mkdir()
    torch.save(tensors, folder / "vae.pt")
    lora = {"lora_unet_a.lora_down.weight": torch.ones(2, 2)}
    without = {name: tensor for name, tensor in tensors_of(sd1).items() if not name.startswith(VAE_PREFIX)}
    return {
        write(folder / "16.safetensors", sixteen): "its latents have 16 channels, not 4",
        write(folder / "nan.safetensors", broken): "numbers that are not finite",
        write(
            folder / "part.safetensors",
            dict(list(sixteen.items())[:2]) | {"decoder.conv_in.weight": tensors["decoder.conv_in.weight"]},
        ): "is missing",
        write(folder / "lora.safetensors", lora): "this is a LoRA, which is an addition to a model, not a VAE",
        write(folder / "pruned.safetensors", without): "this is an SD 1.x model without a VAE",
        write(folder / "other.safetensors", {"weight": torch.ones(2)}): "are not those of a VAE",
        folder / "page.safetensors": r"web page \(HTML\)",
        folder / "empty": "this folder contains no VAE",
        folder / "vae.pt": "a PyTorch or ZIP file",
    }


def test_a_folder_with_only_a_pickled_vae_names_the_file_that_can_be_given(
    sd1: Path, other: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(other / "vae", tmp_path / "vae")
    file = folder / "diffusion_pytorch_model.bin"
    torch.save(load_file(other / VAE), file)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    (problem,) = base_model_problems(sd1, vae=folder)
    assert "only diffusion_pytorch_model.bin is there" in problem.what and str(file) in problem.fix
    assert not base_model_problems(sd1, vae=file)


def test_other_files_and_folders_are_refused(sd1: Path, other: Path, tmp_path: Path) -> None:
    for place, words in wrong_files(tmp_path, sd1, other).items():
        with pytest.raises(ModelError, match=f"(?s)The VAE .*{place.name} cannot be used.*{words}") as raised:
            open_base(sd1, {}, place).read("vae")
        assert all(problem.fix for problem in raised.value.problems), place
