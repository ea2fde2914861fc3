"""Models written in another form; a `.ckpt` is read without running anything of it."""

import pickle
import shutil
import subprocess
import sys
import types
import zipfile
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ed2.__main__ import main
from ed2.app import convert, local_models
from ed2.errors import ModelError
from ed2.models.files import tensor_file
from ed2.models.files.folder import open_folder
from ed2.models.files.lora_base import BASE_FILE, LORA_FILE
from ed2.models.files.pickled import write_tensors_of
from ed2.settings.files import PROGRAM_DIR
from tests.hostile.models import Bomb


@pytest.fixture
def tiny(tiny_configs: Path) -> Path:
    """A folder beside the configurations of the tiny models."""
    return tiny_configs


def same_weights(one: Path, other: Path) -> bool:
    a, b = open_folder(one), open_folder(other)
    pairs = [(a.read(part).state_dict(), b.read(part).state_dict()) for part in a.weights]
    return all(x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x) for x, y in pairs)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_folder_comes_back_from_a_single_file(
    family: str, tiny: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = request.getfixturevalue(family)
    assert main(["convert", str(folder), str(tiny / "one.safetensors")]) == 0
    assert (tiny / "one.yaml").exists() == (family == "sd2")
    assert main(["convert", str(tiny / "one.safetensors"), str(tiny / "back")]) == 0
    assert same_weights(folder, tiny / "back")
    assert not list(tiny.glob(".tmp-*"))
    assert "Wrote" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["half.safetensors", "half.ckpt", "half"])
def test_a_model_is_converted_to_half_precision_and_whole_numbers_stay(name: str, sd1: Path, tiny: Path) -> None:
    target = tiny / name
    assert main(["convert", str(sd1), str(tiny / "whole.safetensors")]) == 0
    counter = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file({**load_file(tiny / "whole.safetensors"), **counter}, tiny / "whole.safetensors", {"format": "pt"})
    assert main(["convert", str(tiny / "whole.safetensors"), str(target), "--export_dtype", "fp16"]) == 0
    if target.is_dir():
        found = load_file(target / "unet" / "diffusion_pytorch_model.safetensors")
        wanted = load_file(sd1 / "unet" / "diffusion_pytorch_model.safetensors")
    else:
        found = load_file(target) if name.endswith("tensors") else torch.load(target, weights_only=True)["state_dict"]
        wanted = load_file(tiny / "whole.safetensors")
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert torch.equal(found[key], tensor.half() if tensor.is_floating_point() else tensor), key


@pytest.mark.parametrize("name", ["half.safetensors", "half"])
def test_numbers_that_are_too_large_for_half_precision_are_named(
    name: str, sd1: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = shutil.copytree(sd1, tiny / "large")
    file = large / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "conv_in.bias": torch.full((32,), 1e5)}, file, {"format": "pt"})
    assert main(["convert", str(large), str(tiny / name), "--export_dtype", "fp16"]) == 1
    assert "has numbers too large for float16: set export_dtype to bf16 or fp32" in capsys.readouterr().err
    assert not (tiny / name).exists()


def test_every_file_of_a_folder_is_synced_and_one_that_cannot_be_copied_is_reported(
    sd2: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reached: list[str] = []
    monkeypatch.setattr(convert, "to_disk", lambda path: reached.append(path.name))
    assert main(["convert", str(sd2), str(tiny / "copy")]) == 0
    assert sorted(reached) == sorted(file.name for file in (tiny / "copy").rglob("*") if file.is_file())
    assert main(["convert", str(sd2), str(tiny / "one.ckpt")]) == 0

    def refuse(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local_models, "write_whole", refuse)  # the .yaml beside the weights
    assert main(["convert", str(tiny / "one.ckpt"), str(tiny / "two.safetensors")]) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert not (tiny / "two.safetensors").exists()


@pytest.mark.parametrize("kind", [".safetensors", ".ckpt"])
def test_a_single_file_comes_back_from_a_folder_with_all_it_had(sdxl: Path, tiny: Path, kind: str) -> None:
    assert main(["convert", str(sdxl), str(tiny / "plain.safetensors")]) == 0
    base = load_file(tiny / "plain.safetensors")
    base |= {"denoiser.sigmas": torch.rand(5), "v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    base["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.5)
    save_file(base, tiny / "one.safetensors")
    assert main(["convert", str(tiny / "one.safetensors"), str(tiny / "folder")]) == 0
    assert main(["convert", str(tiny / "folder"), str(tiny / f"back{kind}")]) == 0
    assert main(["convert", str(tiny / f"back{kind}"), str(tiny / "again.safetensors")]) == 0
    back = load_file(tiny / "again.safetensors")
    assert back.keys() == base.keys()
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in base.items())
    assert not list(tiny.glob("*.yaml"))


class ModelCheckpoint:
    """As Lightning's, which many old files hold beside the weights."""

    def __init__(self) -> None:
        self.best = 5


def test_only_the_tensors_of_a_trainers_ckpt_are_read(sd1: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["convert", str(sd1), str(tiny / "one.ckpt")]) == 0
    content = torch.load(tiny / "one.ckpt", weights_only=True)
    name = "pytorch_lightning.callbacks.model_checkpoint"
    for part in (name, name.rpartition(".")[0], name.partition(".")[0]):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setattr(sys.modules[name], "ModelCheckpoint", ModelCheckpoint, raising=False)
    monkeypatch.setattr(ModelCheckpoint, "__module__", name)
    content["callbacks"] = {ModelCheckpoint: ModelCheckpoint()}
    content["state_dict"]["model_ema.decay"] = torch.ones(1)
    torch.save(content, tiny / "of-lightning.ckpt")
    assert main(["convert", str(tiny / "of-lightning.ckpt"), str(tiny / "two.safetensors")]) == 0
    written = load_file(tiny / "two.safetensors")
    assert written.keys() == content["state_dict"].keys() - {"model_ema.decay"}
    assert all(torch.equal(tensor, content["state_dict"][name]) for name, tensor in written.items())


def packed(path: Path, content: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def test_a_malicious_ckpt_is_refused_and_none_of_it_runs(tmp_path: Path) -> None:
    torch.save({"state_dict": Bomb()}, tmp_path / "code.ckpt")
    torch.save({"state_dict": {"a": torch.zeros(1).expand(50_000, 50_000)}}, tmp_path / "claims.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "claims.ckpt").read_bytes()[:-30])
    packed(tmp_path / "bomb.ckpt", {"x/data.pkl": b"N.", "x/data/0": bytes(50 << 20)})
    packed(tmp_path / "no-pickle.ckpt", {"x/readme": b"hello"})
    words = {
        "code": "asks to run pathlib.PosixPath|asks to run .*write_text|asks to run",
        "claims": "claims 2,500,000,000 numbers that are not in the file",
        "old": "not a file of PyTorch 1.6 or later",
        "empty": "the file is empty",
        "cut": "not a file of PyTorch",
        "bomb": "unpacks to far more than its size",
        "no-pickle": "contains no PyTorch weights",
        "gone": "there is no such file",
    }
    for name, expected in words.items():
        with pytest.raises(ModelError, match=expected):
            write_tensors_of(tmp_path / f"{name}.ckpt", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert not Path("pwned").exists()


@pytest.mark.parametrize("act", ["start", "connect", "write", "write by flags", "remove"])
def test_the_process_that_reads_a_ckpt_can_start_reach_and_write_nothing(act: str, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    acts = {
        "start": "import os; os.system('true')",
        "connect": "import socket; socket.create_connection(('127.0.0.1', 9))",
        "write": f"open({str(tmp_path / 'new')!r}, 'w')",
        "write by flags": f"import os; os.open({str(tmp_path / 'new')!r}, os.O_WRONLY | os.O_CREAT)",
        "remove": f"import os; os.remove({str(tmp_path / 'there')!r})",
    }
    code = f"import sys; from ed2.models.files.unpickle import AuditHook; sys.addaudithook(AuditHook()); {acts[act]}"
    child = subprocess.run([sys.executable, "-c", code], cwd=PROGRAM_DIR, capture_output=True, text=True, check=False)
    assert "PermissionError: a model file tried" in child.stderr
    assert (tmp_path / "there").exists() and not (tmp_path / "new").exists()


def test_nothing_is_overwritten(sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    for target in ("there.safetensors", "no/such/folder", "model.zip"):
        assert main(["convert", str(sd1), str(tmp_path / target)]) == 1
        assert "cannot be written" in capsys.readouterr().err
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["sd-v1.5-anna", "Mein Modell (v1.5) x", "a.b.c", "v2.1", "anna.v1.5.safetensors"])
def test_a_dot_in_a_name_is_not_an_extension(sd1: Path, tmp_path: Path, name: str) -> None:
    assert main(["convert", str(sd1), str(tmp_path / name)]) == 0
    assert (tmp_path / name).is_file() == name.endswith(".safetensors")
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("name", ["model.bin", "model.PT", "model.v1.zip", "model.gguf"])
def test_the_extension_of_another_format_is_refused(
    sd1: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(sd1), str(tmp_path / name)]) == 1
    assert "is not a supported format. Use .safetensors or .ckpt" in capsys.readouterr().err


KINDS = {"unet": torch.float8_e4m3fn, "vae": torch.float8_e5m2, "text_encoder": torch.bfloat16}


@pytest.mark.parametrize("kinds", [KINDS, dict.fromkeys(KINDS, torch.float64)], ids=["few bits", "64 bits"])
def test_every_number_type_is_converted_in_both_directions(
    sd1: Path, tiny: Path, kinds: dict[str, torch.dtype], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(sd1, tiny / "model")
    files = {part: f"{part}/{'model' if 'text' in part else 'diffusion_pytorch_model'}.safetensors" for part in kinds}
    stored = {}
    for part, kind in kinds.items():
        given = load_file(folder / files[part])
        stored[part] = {name: t.to(kind) if t.is_floating_point() else t for name, t in given.items()}
        save_file(stored[part], folder / files[part], {"format": "pt"})
    for source, target in (("model", "one.safetensors"), ("one.safetensors", "back"), ("back", "two.ckpt")):
        assert main(["convert", str(tiny / source), str(tiny / target)]) == 0, capsys.readouterr().err
    assert main(["convert", str(tiny / "two.ckpt"), str(tiny / "again")]) == 0, capsys.readouterr().err
    for name, part in product(("back", "again"), kinds):
        found = load_file(tiny / name / files[part])
        written = torch.float16 if kinds[part].itemsize == 1 else kinds[part]
        for key, tensor in stored[part].items():
            if tensor.is_floating_point():
                same = found.get(key, found.get(f"text_model.{key}"))
                assert torch.equal(same, tensor.to(written)), key
    single = load_file(tiny / "one.safetensors")
    unet = "model.diffusion_model."
    eight = {key: t.to(kinds["unet"]) if key.startswith(unet) else t for key, t in single.items()}
    save_file(eight, tiny / "eight.safetensors", {"format": "pt"})
    torch.save({"state_dict": eight}, tiny / "eight.ckpt")
    for source, target in (("eight.safetensors", "third.safetensors"), ("eight.ckpt", "fourth.safetensors")):
        assert main(["convert", str(tiny / source), str(tiny / target)]) == 0, capsys.readouterr().err
        found = load_file(tiny / target)
        assert all(torch.equal(found[key], tensor) for key, tensor in single.items())


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        ([], 0, "Convert an SD 1.x"),
        (["konvert", "a", "b"], 2, "unknown command 'konvert'. Usage: ./launch.sh convert SOURCE TARGET"),
        (["convert", "a"], 2, "this command needs two paths, not 1."),
        (["convert", "a", "b", "--prediction_type"], 2, "--prediction_type: the value is missing. Use epsilon or"),
        (["convert", "a", "b", "--fast"], 2, "--fast: there is no such flag."),
    ],
)
def test_an_invalid_command_is_reported_in_plain_words(
    argv: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == code
    assert told in "".join(capsys.readouterr())


def test_the_checkpoint_of_a_lora_is_sent_to_merge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / BASE_FILE).write_text("{}")
    (lora / LORA_FILE).write_bytes(b"")
    assert main(["convert", str(lora), str(tmp_path / "one.safetensors")]) == 1
    told = capsys.readouterr().err
    assert "it is a LoRA" in told and "./launch.sh merge BASE lora one.safetensors" in told


@pytest.mark.parametrize("name", ["one.safetensors", "one.ckpt"])
def test_a_yaml_of_another_model_is_never_replaced(
    sd2: Path, tiny: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = tiny / "one.yaml"
    for text in ("model: {params: {parameterization: v}}", "my notes", ""):
        beside.write_text(text)
        assert main(["convert", str(sd2), str(tiny / name), "--prediction_type", "epsilon"]) == 1
        assert "one.yaml is there already and describes another model" in capsys.readouterr().err
        assert beside.read_text() == text and not (tiny / name).exists()
    beside.write_text("model: {params: {parameterization: eps}}  # mine, and it says the same")
    assert main(["convert", str(sd2), str(tiny / name), "--prediction_type", "epsilon"]) == 0
    assert beside.read_text().endswith("says the same")


def test_a_yaml_that_another_program_writes_at_the_last_moment_stays(
    sd2: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_another(path: Path) -> None:
        (tiny / "one.yaml").write_text("model: {params: {parameterization: v}}")

    monkeypatch.setattr(tensor_file, "to_disk", write_another)
    assert main(["convert", str(sd2), str(tiny / "one.safetensors"), "--prediction_type", "epsilon"]) == 1
    assert "describes another model" in capsys.readouterr().err
    assert [file.name for file in tiny.iterdir() if file.is_file()] == ["one.yaml"]
    assert (tiny / "one.yaml").read_text() == "model: {params: {parameterization: v}}"
