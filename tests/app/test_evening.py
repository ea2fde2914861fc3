"""A user's evening: a base model is downloaded, converted, trained, exported, and what came out opens again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ed2.__main__ import main
from ed2.app.checks.start_checks import base_problems
from ed2.app.local_models import models_here
from ed2.models.families.facts import FACTS
from ed2.models.files.source import open_base
from ed2.settings.files import PROGRAM_DIR
from tests.hub import LocalHub, download, files_of, serving
from tests.runs import Values, said, train
from tests.tiny import make_images

FAMILIES = ["sd1", "sd2", "sdxl"]
NAME = "owner/tiny"


@pytest.fixture
def home(tiny_configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for the cache of the hub; single files are of the tiny size."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return tmp_path / "home"


def two_steps(base: str, folder: Path) -> Values:
    """The settings of a run of two steps, with a single file."""
    images = folder / "images"
    if not images.exists():
        make_images(images, [(64, 64)] * 4)
    return {
        "data_root": [str(images)],
        "resume_ckpt": base,
        "resolution": 64,
        "batch_size": 2,
        "max_epochs": 1,
        "lr": 1e-3,
        "sample_prompts": "",
        "logdir": str(folder / "logs"),
        "save_ckpt_dir": str(folder / "files"),
        "save_full_precision": True,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_is_downloaded_converted_trained_exported_and_opened_again(
    family: str, home: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    published: Path = request.getfixturevalue(family)

    # It is not here yet: the run says how to get it. It is downloaded, and found from then on.
    (problem,) = base_problems({"resume_ckpt": NAME})
    assert f"./launch.sh download {NAME}" in problem.fix
    with serving(LocalHub(name=NAME, files=files_of(published))) as hub:
        assert download(hub, home, NAME, answer="yes\n").returncode == 0
    (found,) = models_here([], lambda path: path.is_relative_to(home))
    assert (found.name, found.family) == (NAME, FACTS[family].title)
    assert not base_problems({"resume_ckpt": NAME})

    # As one file for a web UI, which can be trained as well.
    single = tmp_path / "base.safetensors"
    assert main(["convert", found.name, str(single)]) == 0
    runs = [train(two_steps(base, tmp_path)) for base in (NAME, str(single))]
    assert [run.ended.step for run in runs] == [2, 2]
    names = [part.file for part in FACTS[family].parts]
    for name in names:
        one, other = (load_file(run.checkpoint / name) for run in runs)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), name

    # What came out is a single file that opens as the model that was trained, and can be trained on.
    exported = tmp_path / "files" / f"{runs[0].checkpoint.name}.safetensors"
    assert not base_problems({"resume_ckpt": str(exported)})
    opened, trained = open_base(exported, {}), open_base(runs[0].checkpoint, {})
    for part in trained.dtypes:
        ours, theirs = (source.read(part).state_dict() for source in (opened, trained))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), part
    before = open_base(published, {}).read("unet").state_dict()
    assert not torch.equal(before["conv_in.weight"], opened.read("unet").state_dict()["conv_in.weight"])
    again = train({**two_steps(str(exported), tmp_path), "project_name": "again"})
    assert (again.ended.phase, again.ended.step) == ("done", 2)


def test_a_download_without_a_file_says_how_to_get_what_is_missing(home: Path, sd1: Path) -> None:
    with serving(LocalHub(name=NAME, files=files_of(sd1))) as hub:
        assert download(hub, home, NAME, "--yes").returncode == 0
    (model,) = models_here([], lambda path: path.is_relative_to(home))
    (model.path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (problem,) = base_problems({"resume_ckpt": NAME})
    assert "the weights are missing" in problem.what
    assert problem.fix == f"Download what is missing: ./launch.sh download {NAME}"


def test_a_folder_of_the_hubs_cache_is_trained_and_the_run_says_which_download_it_uses(
    home: Path, sd1: Path, tmp_path: Path
) -> None:
    snapshot = home / "hub" / "models--owner--tiny" / "snapshots" / "abc"
    shutil.copytree(sd1, snapshot)
    run = train(two_steps(str(home / "hub" / "models--owner--tiny"), tmp_path))
    assert run.ended.phase == "done"
    assert f"Using the newest download in models--owner--tiny: {snapshot}." in said(run)


def test_the_commands_of_the_evening_are_listed() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "ed2", "--help"], cwd=PROGRAM_DIR, capture_output=True, text=True, check=True
    )
    assert all(f"./launch.sh {command}" in ran.stdout for command in ("convert", "download", "models"))
