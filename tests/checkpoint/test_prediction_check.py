"""The first single file of a run predicts what its checkpoint predicts, or says why that is not known."""

import json
import shutil
from pathlib import Path

import pytest

from ed2.app.reporters.log import describe
from ed2.checkpoint import prediction_check
from ed2.events import CheckpointSaved, RunEnded, SingleFileChecked, Warned
from ed2.models.files import source as source_module
from ed2.small_files import read_object
from tests.runs import Trained, Values, differing, train


@pytest.fixture
def configs(sd1: Path, quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of the tiny model in place of that of SD 1.x."""
    folder = shutil.copytree(sd1, quick_path / "configs" / "sd1", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(source_module, "CONFIGS", folder.parent)
    return folder


@pytest.fixture
def values(values: Values, quick_path: Path) -> Values:
    return {**values, "no_save_ckpt": False, "save_ckpt_dir": str(quick_path / "files")}


def checks(run: Trained) -> list[str]:
    return [describe(event) for event in run.of(SingleFileChecked)]


def test_the_log_says_as_what_the_first_file_opens_and_that_it_predicts_the_same(configs: Path, values: Values) -> None:
    run = train({**values, "export_dtype": "fp32"})
    first, last = run.of(CheckpointSaved)
    assert first.single_file and last.single_file
    assert checks(run) == [f"{first.single_file.name} opens as SD 1.x, epsilon; prediction equal."]
    assert all("single file (opens as SD 1.x, epsilon) " in describe(saved) for saved in (first, last))
    log = (run.run_dir / "run.log").read_text(encoding="utf-8")
    assert checks(run)[0] in log
    assert isinstance(run.events[-1], RunEnded)


def test_rounding_is_told_from_a_difference(configs: Path, values: Values) -> None:
    (text,) = checks(train(values))
    assert "; prediction equal, rounding aside (0." in text


def test_a_file_that_web_uis_would_open_as_another_model_is_renamed_and_reported(
    configs: Path, values: Values, quick_path: Path
) -> None:
    config = configs / "text_encoder" / "config.json"
    config.write_text(json.dumps({**read_object(config), "hidden_act": "relu"}))
    run = train(values)
    warnings = [event.text for event in run.of(Warned) if "does not predict" in event.text]
    assert len(warnings) == 2 and all(
        "its text encoder is off by" in text and "It was renamed to ." in text for text in warnings
    )
    assert not run.of(SingleFileChecked)
    assert run.ended.phase == "done" and run.ended.single_file is None
    assert not list((quick_path / "files").glob("last-*"))
    assert list((quick_path / "files").glob(".damaged-*-last-*.safetensors"))


def test_what_cannot_be_compared_is_said(values: Values, configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = checks(train({**values, "ckpt_format": "ckpt"}))
    assert text.endswith("opens as SD 1.x, epsilon; prediction not compared: only that of a .safetensors is.")
    (text,) = checks(train({**values, "method": "lora"}))
    assert text.endswith(
        "opens as a LoRA for SD 1.x; prediction not compared: a LoRA predicts nothing without its base."
    )
    monkeypatch.setattr(prediction_check, "free_memory_bytes", lambda: 1000)
    (text,) = checks(train(values))
    assert "; prediction not compared: it needs " in text and text.endswith(" of free memory, and 1.0 kB is free.")
    monkeypatch.undo()
    (text,) = checks(train(values))
    assert text.endswith("; prediction not compared: its UNet does not have the size of SD 1.x.")


def test_a_run_with_checks_resumes_to_the_same_bytes(configs: Path, values: Values, quick_path: Path) -> None:
    whole = train(values)
    stopped = train({**values, "logdir": str(quick_path / "again")}, stop_at=4)
    resumed = train({"resume_ckpt": str(stopped.checkpoint), "logdir": str(quick_path / "again")})
    assert len(checks(stopped)) == len(checks(resumed)) == 1
    assert not differing(whole.checkpoint, resumed.checkpoint)
