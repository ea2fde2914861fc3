"""Runs on what goes wrong in real life: moved, damaged and incomplete models, and ends at awkward moments."""

import json
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ed2.app.faults import fault_of
from ed2.errors import FinishedError, ModelError, Problem
from ed2.events import CheckpointSaved, Event, PhaseChanged, RunStarted, StepDone, Warned
from ed2.models.files.folder import open_folder
from ed2.settings.files import with_defaults
from tests.runs import Values, train


@pytest.fixture
def values(values: Values) -> Values:
    return {**values, "batch_size": 4, "no_save_ckpt": True, "disable_textenc_training": True}


def test_checkpoints_of_a_base_with_a_safety_checker_load(values: Values, sd1: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    base = shutil.copytree(sd1, tmp_path / "base")
    index = json.loads((base / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (base / "model_index.json").write_text(json.dumps(index))
    trained = train({**values, "resume_ckpt": str(base), "max_epochs": 1})
    StableDiffusionPipeline.from_pretrained(trained.checkpoint, local_files_only=True)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_a_model_with_a_tensor_missing_is_refused_by_name(sd1: Path, tmp_path: Path, part: str) -> None:
    base = shutil.copytree(sd1, tmp_path / "base")
    (file,) = (base / part).glob("*.safetensors")
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[-1])
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=part):
        open_folder(base).read(part)


def test_a_model_that_fails_during_the_run_is_reported_with_its_setting(values: Values, tmp_path: Path) -> None:
    for path, setting in (("unet", "--resume_ckpt"), ("ema_resume_model", "--ema_resume_model")):
        error = ModelError("This model cannot be used:", [Problem(path, "it is half there.", "Get it again.")])
        fault = fault_of(error, with_defaults(values), torch.device("cpu"), tmp_path)
        assert fault.reason.endswith(f"It was set by {setting}."), fault


def test_a_missing_model_is_reported_before_the_images_and_leaves_no_folder(values: Values, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    phases: list[str] = []
    with pytest.raises(ModelError):
        train({**values, "resume_ckpt": str(broken)}, observer=lambda e: phases.append(type(e).__name__))
    assert PhaseChanged.__name__ not in phases
    assert not list((tmp_path / "logs").glob("*"))


def test_a_moved_checkpoint_resumes_in_a_new_folder(values: Values, tmp_path: Path) -> None:
    first = train(values, stop_at=1)
    moved = tmp_path / "elsewhere" / "models" / "mine"
    shutil.copytree(first.checkpoint, moved)
    resumed = train({**values, "resume_ckpt": str(moved)})
    assert resumed.of(RunStarted)[0].step == 1
    assert resumed.run_dir.parent == tmp_path / "logs"
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["models"]


def test_findlast_skips_a_checkpoint_with_truncated_weights(values: Values) -> None:
    first = train({**values, "save_every_n_epochs": 1})
    newest = first.checkpoint
    file = newest / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    older = first.of(CheckpointSaved)[0]
    resumed = train({"resume_ckpt": "findlast", "logdir": values["logdir"]})
    assert resumed.of(RunStarted)[0].step == older.step
    assert resumed.ended.phase == "done"
    assert list(newest.parent.glob(f".damaged-*-{newest.name}"))
    assert not list(newest.parent.glob(".tmp*"))


def test_a_drawn_seed_is_kept_when_the_same_command_resumes(values: Values) -> None:
    first = train({**values, "seed": -1}, stop_at=1)
    resumed = train({**values, "seed": -1, "resume_ckpt": "findlast"})
    assert resumed.run_dir == first.run_dir


def test_a_stop_before_the_first_new_step_writes_nothing_twice(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(values, stop_at=1)
    from ed2.app import execute

    def stop(run: object) -> None:
        from ed2.errors import StopRequested

        raise StopRequested(2)

    monkeypatch.setattr(execute, "train", stop)
    again = train({"resume_ckpt": str(first.checkpoint), "logdir": values["logdir"]})
    assert again.ended.phase == "stopped"
    assert again.checkpoint == first.checkpoint
    assert not again.of(CheckpointSaved)


def test_the_settings_of_a_resumed_run_still_name_its_base_model(values: Values, sd1: Path) -> None:
    first = train(values, stop_at=1)
    train({"resume_ckpt": str(first.checkpoint), "logdir": values["logdir"]})
    assert json.loads((first.run_dir / "settings.json").read_text())["resume_ckpt"] == str(sd1)


def test_a_finished_lora_is_named_by_its_checkpoint_not_its_base_model(values: Values) -> None:
    first = train({**values, "max_epochs": 1, "method": "lora"})
    assert first.checkpoint is not None
    with pytest.raises(FinishedError, match=f"{first.checkpoint.name} has completed its 1 epoch"):
        train({"resume_ckpt": str(first.checkpoint), "logdir": values["logdir"]})


def test_a_finished_run_has_nothing_left_with_the_same_images_and_starts_over_with_others(
    values: Values, tmp_path: Path
) -> None:
    from tests.tiny import make_images

    first = train({**values, "max_epochs": 1})
    again = {"resume_ckpt": str(first.checkpoint), "logdir": values["logdir"]}
    with pytest.raises(FinishedError, match=r"has completed its 1 epoch\. Raise max_epochs"):
        train(again)
    others = make_images(tmp_path / "others", [(64, 64)])
    (others / "00.png").rename(others / "another.png")
    fresh = train({**again, "data_root": [str(others)]})
    assert (fresh.of(RunStarted)[0].step, fresh.ended.phase) == (0, "done")


def test_an_end_that_cannot_be_saved_or_drawn_is_still_reported(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ed2.app import execute

    def fail(*anything: object) -> None:
        raise OSError("the disk is gone")

    def fail_strangely(*anything: object) -> None:
        raise IndexError("no such tile")

    monkeypatch.setattr(execute, "contact_sheet", fail_strangely)
    monkeypatch.setattr(execute, "require_savable", fail)
    trained = train(values, stop_at=1)
    assert trained.ended.phase == "failed", "130 says that it was stopped and saved"
    begin = "stopped, but not saved. The run could not be saved: the disk is gone. The run has no checkpoint yet, so"
    assert trained.ended.reason.startswith(begin), trained.ended
    assert f"--config {trained.run_dir / 'settings.json'}" in trained.ended.reason
    warned = [event.text for event in trained.of(Warned)]
    assert any("could not be drawn: no such tile" in text for text in warned)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_stop_that_cannot_be_saved_fails_and_names_the_previous_checkpoint(values: Values) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    try:
        trained = train({**values, "save_every_n_epochs": 1}, stop_at=4, observer=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (saved,) = trained.of(CheckpointSaved)
    assert (trained.ended.phase, trained.checkpoint) == ("failed", saved.path)
    lost = f"The 1 step after {saved.path.name} was not saved; train it again with --resume_ckpt findlast."
    assert f"the disk is full or does not support files of this size. Free some space. {lost}" in trained.ended.reason
    assert not [warned for warned in trained.of(Warned) if "could not be written" in warned.text]


def test_a_run_opens_no_network_connection(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*anything: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert train({**values, "max_epochs": 1}).ended.phase == "done"


def test_an_end_that_fails_itself_is_reported_with_what_is_on_the_disk(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*arguments: object, **options: object) -> None:
        raise MemoryError

    def fail_at_the_end(event: Event) -> None:
        if isinstance(event, CheckpointSaved):
            for name in ("log_error", "unsaved_fault", "draw_contact_sheet", "require_savable"):
                monkeypatch.setattr(f"ed2.app.execute.{name}", no_memory)
            monkeypatch.setattr("ed2.checkpoint.background.BackgroundSaver.finish", no_memory)

    trained = train({**values, "save_every_n_epochs": 1}, observer=fail_at_the_end)
    (kept,) = [saved.path for saved in trained.of(CheckpointSaved)]
    assert trained.ended.phase == "failed"
    assert trained.ended.checkpoint == kept
    assert "out of memory" in trained.ended.reason and kept.name in trained.ended.reason
