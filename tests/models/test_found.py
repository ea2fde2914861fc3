"""The models on this computer: found by their headers, within limits, and only where they may be opened."""

import json
import math
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ed2.app import local_models
from ed2.app.local_models import models_here
from ed2.models.files.found import MAX_DEPTH, MAX_FOUND, describe, find_models
from ed2.settings.files import PROGRAM_DIR
from tests.hub import environment
from tests.models.test_single_file import tensors_of, write


@pytest.fixture
def models(sd1: Path, sd2: Path, sdxl: Path, tmp_path: Path) -> Path:
    """A folder of models of every kind, and of what is none."""
    folder = tmp_path / "my models"
    scheduler = shutil.copytree(sd2, folder / "deep" / "sd2 folder") / "scheduler/scheduler_config.json"
    own = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps({**own, "lambda_min_clipped": float("-inf")}))  # as diffusers' DPM-Solver does
    write(folder / "a.safetensors", tensors_of(sd1))
    write(folder / "b.sft", {**tensors_of(sd1), "v_pred": torch.empty(0)})
    write(folder / "deep" / "c.safetensors", tensors_of(sd2))
    write(folder / "deep" / "unmarked.safetensors", tensors_of(sdxl))
    write(folder / "deep" / "v.safetensors", tensors_of(sdxl, v_pred=torch.empty(0)))
    torch.save({"state_dict": tensors_of(sd1)}, folder / "d.ckpt")
    torch.save({"epoch": 1}, folder / "optimizer.ckpt")
    save_file({"lora_unet_a.lora_down.weight": torch.ones(2, 2)}, folder / "lora.safetensors")
    (folder / "page.safetensors").write_text("<html>")
    (folder / "broken").mkdir()
    (folder / "broken" / "model_index.json").write_text("[" * 90_000)
    inpainting = shutil.copytree(sd1, folder / "inpainting")
    config = json.loads((inpainting / "unet/config.json").read_text())
    (inpainting / "unet/config.json").write_text(json.dumps({**config, "in_channels": 9}))
    other_noise = shutil.copytree(sdxl, folder / "other noise", ignore=shutil.ignore_patterns("*.safetensors"))
    (other_noise / "scheduler/scheduler_config.json").write_text('{"_class_name": "EDMEulerScheduler"}')
    return folder


def test_each_model_is_found_with_its_family_and_what_it_predicts(models: Path) -> None:
    found = {model.path.relative_to(models).as_posix(): model.about for model in find_models([models], None)}
    assert found == {
        "a.safetensors": "SD 1.x, epsilon",
        "b.sft": "SD 1.x, v-prediction",
        "d.ckpt": "converted when a run starts",
        "deep/c.safetensors": "SD 2.x, prediction not stated",
        "deep/sd2 folder": "SD 2.x, v-prediction",
        "deep/unmarked.safetensors": "SDXL, prediction not stated",
        "deep/v.safetensors": "SDXL, v-prediction",
    }


def test_what_an_unmarked_file_of_sdxl_predicts_is_not_guessed(sdxl: Path, tmp_path: Path) -> None:
    plain = describe(write(tmp_path / "plain.safetensors", tensors_of(sdxl)))
    marked = describe(write(tmp_path / "marked.safetensors", {**tensors_of(sdxl), "v_pred": torch.empty(0)}))
    assert plain and marked
    assert (plain.about, marked.about) == ("SDXL, prediction not stated", "SDXL, v-prediction")


def test_size_and_licence_are_found_where_they_are_stated(sd1: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "one.safetensors", shutil.copytree(sd1, tmp_path / "folder")
    save_file(tensors_of(sd1), file, metadata={"modelspec.license": "CreativeML Open RAIL-M"})
    (folder / "README.md").write_text("---\ntags: [a]\nlicense: openrail\n---\n# A model\n")
    found, inside = describe(file), describe(folder)
    assert found and (found.num_bytes, found.licence) == (file.stat().st_size, "CreativeML Open RAIL-M")
    assert inside and inside.licence == "openrail"
    assert inside.num_bytes == sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))
    (folder / "README.md").write_text("# license: none\n")
    again = describe(folder)
    assert again and again.licence == ""


def test_a_model_that_cannot_be_read_or_opened_is_not_offered(models: Path) -> None:
    def allow(path: Path) -> bool:
        return "deep" not in path.parts and path.name != "a.safetensors"

    found = {model.path.name for model in find_models([models, models / "gone"], None, allow)}
    assert found == {"b.sft", "d.ckpt"}
    assert describe(models / "gone") is None


def test_depth_and_number_are_limited_and_links_are_not_followed_in_circles(sd1: Path, tmp_path: Path) -> None:
    file, place = write(tmp_path / "one.safetensors", tensors_of(sd1)), tmp_path / "models"
    place.mkdir()
    (place / "circle").symlink_to(place)
    for number in range(MAX_FOUND + 5):
        os.link(file, place / f"{number}.safetensors")
    deep = place.joinpath(*"x" * (MAX_DEPTH + 1))
    deep.mkdir(parents=True)
    os.link(file, deep / "deep.safetensors")
    found = find_models([place], None)
    assert len(found) == MAX_FOUND
    for number in range(MAX_FOUND):
        (place / f"{number}.safetensors").unlink()
    assert {model.path.name for model in find_models([place], None)} == {
        f"{MAX_FOUND + n}.safetensors" for n in range(5)
    }


def test_no_weights_are_read(models: Path) -> None:
    """A file of 4 TB, all of it a hole after the header, is described at once."""
    file, shape = models / "huge.safetensors", [1 << 40]
    header = {"model.diffusion_model.input_blocks.0.0.weight": [8, 4, 3, 3], "cond_stage_model.transformer.x": shape}
    entries, place = {}, 0
    for name, sides in header.items():
        end = place + 4 * math.prod(sides)
        entries[name] = {"dtype": "F32", "shape": sides, "data_offsets": [place, end]}
        place = end
    text = json.dumps(entries).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + place)
    model = describe(file)
    assert model and model.about == "SD 1.x, epsilon"


def test_a_download_is_offered_by_its_public_name(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "models--owner--tiny"
    shutil.copytree(sd1, home / "snapshots" / "abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (model,) = models_here([], lambda path: path.is_relative_to(tmp_path))
    assert (model.name, model.path, model.about) == ("owner/tiny", home / "snapshots" / "abc", "SD 1.x, epsilon")
    assert not models_here([], lambda path: False)


@pytest.mark.parametrize("home", ["", "..", "../web ui"])
def test_web_uis_near_the_program_are_searched(
    home: str, sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "apps" / "everydream"
    program.mkdir(parents=True)
    monkeypatch.setattr(local_models, "PROGRAM_DIR", program)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    folder = Path(os.path.normpath(program / home)) / "models/Stable-diffusion"
    folder.mkdir(parents=True)
    file = write(folder / "a.safetensors", tensors_of(sd1))
    assert [model.path for model in models_here([], lambda path: path.is_relative_to(tmp_path))] == [file]


def test_the_command_lists_them(models: Path, tmp_path: Path) -> None:
    def told(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "ed2", "models", *words]
        env = environment(tmp_path, "http://127.0.0.1:9")
        return subprocess.run(command, cwd=PROGRAM_DIR, env=env, capture_output=True, text=True, check=False)

    ran = told("--model_dirs", str(models))
    assert ran.returncode == 0
    assert f"{models / 'a.safetensors'}  (SD 1.x, epsilon)" in ran.stdout.splitlines()
    assert told("--wrong").returncode == 2
