"""A `.ckpt` as base model: looked at by the check, converted once by a start, whatever its name says."""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch

from ed2.__main__ import main
from ed2.app import local_models
from ed2.app.checks.start_checks import base_problems
from ed2.app.command import main as train_main
from ed2.app.local_models import converted
from ed2.app.preflight import model_sizes
from ed2.errors import ModelError
from ed2.settings.files import with_defaults
from tests.hostile.models import UNET, Bomb
from tests.models.test_folders_of_others import PICKLED, pickle_part
from tests.runs import Values, differing, train


@pytest.fixture
def ckpt(sd1: Path, tiny_configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model as a `.ckpt`, and a folder of its own for what is converted."""
    monkeypatch.setattr(local_models, "MODELS_DIR", tmp_path / "user" / "models")
    assert main(["convert", str(sd1), str(tmp_path / "old.ckpt")]) == 0
    return tmp_path / "old.ckpt"


def run_values(base: Path, images: Path) -> Values:
    return {
        "data_root": [str(images)],
        "resume_ckpt": str(base),
        "resolution": 64,
        "max_epochs": 1,
        "logdir": str(base.parent / "logs"),
        "sample_prompts": str(base.parent / "none.txt"),
        "no_save_ckpt": True,
    }


def test_a_start_converts_a_ckpt_once_and_says_so(ckpt: Path, sd1: Path, images: Path) -> None:
    runs = [train(run_values(base, images)) for base in (ckpt, ckpt, sd1)]
    assert [run.ended.phase for run in runs] == ["done"] * 3
    (written,) = (ckpt.parent / "user" / "models").iterdir()
    assert written.name.startswith("old-") and written.suffix == ".safetensors"
    first, second = ([str(event) for event in run.events] for run in runs[:2])
    assert any("converting old.ckpt" in text for text in first)
    assert any("old.ckpt was converted to" in text for text in first)
    assert any("was converted from old.ckpt before" in text for text in second)
    unets = [(run.checkpoint / "unet/diffusion_pytorch_model.safetensors").read_bytes() for run in runs]
    assert unets[0] == unets[1] == unets[2]


def test_converted_files_are_named_by_content(ckpt: Path) -> None:
    first, _ = converted(ckpt)
    copy = ckpt.rename(ckpt.with_name("z.safetensors"))  # a wrong name is no obstacle
    assert converted(copy)[0].name.split("-")[1] == first.name.split("-")[1]
    content = torch.load(io.BytesIO(copy.read_bytes()), weights_only=True)
    next(iter(content["state_dict"].values())).add_(1)
    torch.save(content, copy)
    assert converted(copy)[0].name.split("-")[1] != first.name.split("-")[1]


def test_a_check_says_what_a_start_would_convert_and_writes_nothing(
    ckpt: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not base_problems({"resume_ckpt": str(ckpt)})
    argv = ["--check", "--json", "--data_root", str(images), "--resume_ckpt", str(ckpt), "--resolution", "64"]
    assert train_main(argv) == 0
    answer = json.loads(capsys.readouterr().out)
    notes = " ".join(map(str, answer["notes"]))
    assert "old.ckpt is an SD 1.x model of" in notes and "The start of a run converts it once into user/models" in notes
    assert not (ckpt.parent / "user").exists()


def test_other_files_in_that_format_are_reported_before_a_start(ckpt: Path, tmp_path: Path) -> None:
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(1, 768)}}, tmp_path / "style.pt")
    torch.save({"lora_unet_down.lora_down.weight": torch.zeros(2)}, tmp_path / "lora.pt")
    torch.save({"epoch": 5, "optimizer": {}}, tmp_path / "other.pt")
    (tmp_path / "page.ckpt").write_text("<!doctype html><html>Sign in</html>")
    expected = {
        "style.pt": "a textual inversion embedding",
        "lora.pt": "a LoRA",
        "other.pt": "it is not a Stable Diffusion model",
        "page.ckpt": "a web page (HTML)",
    }
    for name, words in expected.items():
        (problem,) = base_problems({"resume_ckpt": str(tmp_path / name)})
        assert words in str(problem) and "ed2 convert" not in str(problem)


def test_a_ckpt_that_asks_for_code_is_refused_by_the_check_and_by_a_start(ckpt: Path) -> None:
    content = torch.load(ckpt, weights_only=True)
    torch.save({**content, "hook": Bomb()}, ckpt)
    assert "treat it as an attack" in str(base_problems({"resume_ckpt": str(ckpt)}))
    with pytest.raises(ModelError, match="treat it as an attack"):
        converted(ckpt)
    assert not Path("pwned").exists()
    assert not list((ckpt.parent / "user" / "models").iterdir())


def test_a_start_converts_a_folder_of_bin_files_once_and_says_so(ckpt: Path, sd1: Path, images: Path) -> None:
    folder = shutil.copytree(sd1, ckpt.parent / "bins")
    for name, file in PICKLED.items():
        pickle_part(folder, name, file)
    assert not base_problems({"resume_ckpt": str(folder)})
    sizes = model_sizes(with_defaults({"resume_ckpt": str(folder)}))
    assert "bins is an SD 1.x model of" in str(sizes.notes) and "converts it once" in str(sizes.notes)
    assert sizes.parameters == model_sizes(with_defaults({"resume_ckpt": str(sd1)})).parameters
    runs = [train(run_values(base, images)) for base in (folder, folder, sd1)]
    (written,) = (ckpt.parent / "user" / "models").iterdir()
    assert written.name.startswith("bins-") and written.is_dir()
    assert any("bins was converted to" in str(event) for event in runs[0].events)
    assert any("was converted from bins before" in str(event) for event in runs[1].events)
    assert not differing(runs[0].checkpoint, runs[2].checkpoint) and not differing(
        runs[1].checkpoint, runs[2].checkpoint
    )


def test_a_bin_file_that_asks_for_code_is_refused_by_the_check_and_by_a_start(ckpt: Path, sd1: Path) -> None:
    folder = shutil.copytree(sd1, ckpt.parent / "bins")
    pickle_part(folder, UNET, PICKLED[UNET])
    torch.save({"conv_in.weight": torch.zeros(2), "hook": Bomb()}, folder / PICKLED[UNET])
    (problem,) = base_problems({"resume_ckpt": str(folder)})
    assert "treat it as an attack" in problem.what and "diffusion_pytorch_model.bin" in problem.what
    with pytest.raises(ModelError, match="treat it as an attack"):
        converted(folder)
    assert not Path("pwned").exists() and not list((ckpt.parent / "user" / "models").iterdir())


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model", "model.v2"])
def test_a_safetensors_file_is_used_whatever_its_name(name: str, ckpt: Path, sd1: Path) -> None:
    assert main(["convert", str(sd1), str(ckpt.parent / "plain.safetensors")]) == 0
    file = (ckpt.parent / "plain.safetensors").rename(ckpt.parent / name)
    assert not base_problems({"resume_ckpt": str(file)})
    assert main(["convert", str(file), str(ckpt.parent / "again.safetensors")]) == 0
    assert not model_sizes(with_defaults({"resume_ckpt": str(file)})).problems
