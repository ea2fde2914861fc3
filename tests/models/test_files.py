"""What is said of a folder that is no model to train, before anything is loaded."""

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest

from ed2.errors import ModelError
from ed2.models.files.folder import open_folder


@pytest.fixture
def folder(sd1: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sd1, tmp_path / "model")


def told(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        open_folder(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_a_whole_folder_is_opened_with_its_family_and_precision(sd1: Path, sd2: Path) -> None:
    assert (open_folder(sd1).family, open_folder(sd2).family) == ("sd1", "sd2")
    assert set(map(str, open_folder(sd1).dtypes.values())) == {"torch.float32"}


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    assert "there is no such file or folder" in told(tmp_path / "gone")


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert "this is a file" in told(tmp_path / "model.safetensors")


def test_a_folder_with_the_model_one_level_below_names_it(folder: Path) -> None:
    assert "Did you mean model inside it?" in told(folder.parent)


def test_all_missing_files_are_listed_at_once(folder: Path) -> None:
    (folder / "vae" / "config.json").unlink()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(folder / "tokenizer")
    text = told(folder)
    assert "vae/config.json: the file is missing." in text
    assert "unet/diffusion_pytorch_model.safetensors: the weights are missing." in text
    assert "tokenizer/vocab.json: the file is missing." in text


def test_a_pickle_is_refused_and_never_opened(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "it ran").write_text, ("",))

    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    assert "only diffusion_pytorch_model.bin is there, in a format that can run code." in told(folder)
    assert not (tmp_path / "it ran").exists()


def test_another_kind_of_model_is_named(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    for name in ("StableDiffusion3Pipeline", "FluxPipeline"):
        (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))
        assert f"this is a {name}, which cannot be trained here." in told(folder)


def test_an_inpainting_model_is_recognised_by_its_channels(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 9}))
    assert "this is an inpainting model" in told(folder)


def test_the_refiner_of_sdxl_is_named(sdxl: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sdxl, tmp_path / "model")
    shutil.rmtree(folder / "text_encoder")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "cross_attention_dim": 1280}))
    assert "this is the refiner of SDXL, which cannot be trained here." in told(folder)


def test_a_class_that_the_folder_names_is_never_imported(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "unet": ["os", "system"], "vae": ["evil", "Code"]}))
    assert open_folder(folder).family == "sd1"


def test_a_broken_config_is_named(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text('{"beta_start": ')
    assert "scheduler/scheduler_config.json: invalid JSON" in told(folder)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_weights_that_are_not_safetensors_are_named(folder: Path, content: bytes) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    assert re.search(r"vae/diffusion_pytorch_model.safetensors: (the file is empty|this is a)", told(folder))


def test_weights_of_another_shape_are_reported_when_they_are_read(folder: Path, sd2: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "block_out_channels": [64, 64]}))
    with pytest.raises(ModelError, match=r"unet: its weights and its config\.json do not belong together"):
        open_folder(folder).read("unet")
