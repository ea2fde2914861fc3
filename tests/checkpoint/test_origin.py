"""A checkpoint knows its run: its settings and images go with it, and a renamed run is still the same."""

import json
import re
import shutil
from pathlib import Path

import pytest

from ed2.app.resolve import resolve_settings
from ed2.app.resume_test.comparison import differences
from ed2.app.run_settings import newest_state, settings_for_check
from ed2.app.run_spec import open_model
from ed2.checkpoint.resume import newest_below, newest_of_run
from ed2.errors import ModelError, SettingsError
from ed2.events import RunStarted
from tests.resolved import Resolved, resolved
from tests.runs import Trained, Values, train


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path) -> Path:
    """The last checkpoint of a run, copied to where no run is."""
    (newest,) = (run_dir / "ckpts").glob("last-tiny-ep01-gs?????")
    return shutil.copytree(newest, tmp_path / "mymodel")


def weighed(values: Values) -> tuple[Resolved, str]:
    """How a run with these settings would begin, and everything that is said of it."""
    start = resolved(values)
    return start, " ".join(start.notes)


def test_a_copied_checkpoint_resumes_with_its_runs_settings_and_reports_changes(
    copy: Path, short_values: Values, tmp_path: Path
) -> None:
    given: Values = {"resume_ckpt": str(copy), "max_epochs": 3, "logdir": str(tmp_path / "logs")}
    start, said = weighed(given)
    assert start.checkpoint and not start.same_folder
    as_then = resolve_settings(short_values, None).settings.flat()
    assert start.settings.flat() == {**as_then, **given, "save_ckpt_dir": None}
    assert "Continuing in a new folder: this copy of a checkpoint is not in the folder of its run." in said
    start, said = weighed({**given, "lr": 1e-3})
    assert start.checkpoint and "results will not be bit-identical: lr not set -> 0.001." in said
    planned = settings_for_check({"resume_ckpt": str(copy)}, None)
    assert planned.settings.data.data_root == start.settings.data.data_root
    assert "taken from the checkpoint mymodel" in " ".join(planned.notes)


def test_a_copied_checkpoint_starts_over_in_another_project_or_with_other_images(
    copy: Path, images: Path, tmp_path: Path
) -> None:
    given: Values = {"resume_ckpt": str(copy), "logdir": str(tmp_path / "logs")}
    start, said = weighed({**given, "project_name": "cats", "data_root": [str(images)]})
    assert start.checkpoint is None and not start.is_finished
    assert "A new run from the weights of mymodel: the project has a different name (tiny -> cats)." in said
    (tmp_path / "others").mkdir()
    shutil.copy(images / "00.png", tmp_path / "others" / "another.png")
    start, said = weighed({**given, "data_root": [str(tmp_path / "others")]})
    assert start.checkpoint is None and not start.is_finished
    assert "A new run from the weights of mymodel: none of its images are in the dataset." in said
    assert weighed(given)[0].is_finished, "with nothing changed, all its epochs are done"


def test_a_renamed_run_without_its_settings_resumes_in_its_folder_to_the_same_bytes(
    saved_run: Trained, run_dir: Path
) -> None:
    renamed = run_dir.rename(run_dir.with_name("the good one"))
    for newest in (renamed / "ckpts").glob("last-*"):
        shutil.rmtree(newest)
    (renamed / "settings.json").write_text("")
    resumed = train({"resume_ckpt": "findlast", "logdir": str(renamed.parent)})
    assert resumed.run_dir == renamed
    first = json.loads((saved_run.run_dir / "settings.json").read_text())
    assert json.loads((renamed / "settings.json").read_text()) == {**first, "logdir": str(renamed.parent)}
    assert 0 < resumed.of(RunStarted)[0].step < resumed.ended.step
    assert not differences(saved_run.run_dir, renamed)
    state = json.loads((resumed.checkpoint / "training_state" / "state.json").read_text())
    assert state["run"] == saved_run.run_dir.name, "it stays the same run"


def test_copied_images_are_recognised_and_a_changed_one_is_noticed(run_dir: Path, images: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(images, tmp_path / "copied", copy_function=shutil.copy)  # with the time of now
    given: Values = {"resume_ckpt": str(run_dir), "data_root": [str(copied)], "max_epochs": 3}
    assert weighed(given)[0].same_folder
    (copied / "00.png").write_bytes((images / "01.png").read_bytes())
    start, said = weighed(given)
    assert start.checkpoint and not start.same_folder
    assert "results will not be bit-identical: images or captions were changed" in said


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "it is not valid JSON (it is empty)"),
        ('{"max_epochs": 2, "max_epoch": 3}', "max_epoch: "),
        ('{"max_epochs": "many"}', "max_epochs: "),
        (None, "it is missing"),
    ],
)
def test_a_run_with_damaged_settings_resumes_with_those_of_its_checkpoint(
    run_dir: Path, images: Path, content: str | None, why: str
) -> None:
    file = run_dir / "settings.json"
    file.unlink() if content is None else file.write_text(content)
    for name in ("findlast", str(run_dir)):
        start, said = weighed({"resume_ckpt": name, "logdir": str(run_dir.parent), "max_epochs": 3})
        assert start.same_folder
        assert start.settings.data.data_root == (str(images),)
        assert f"Cannot use the run's settings.json: {why}" in said
        assert ". Using the settings stored in last-tiny-ep01-gs" in said


def test_a_checkpoint_from_before_it_held_settings_still_loads(copy: Path, run_dir: Path, short_values: Values) -> None:
    def made_old(checkpoint: Path) -> None:
        state = checkpoint / "training_state"
        (state / "pictures.json").unlink()
        values = json.loads((state / "state.json").read_text())
        del values["settings"]
        (state / "state.json").write_text(json.dumps(values))
        (checkpoint / "manifest.json").unlink()
        values["format"] = 1
        (state / "state.json").write_text(json.dumps(values))

    made_old(copy)
    start, said = weighed({**short_values, "resume_ckpt": str(copy), "max_epochs": 3})
    assert start.checkpoint and "Continues mymodel at step" in said
    (newest,) = (run_dir / "ckpts").glob("last-tiny-ep01-gs?????")
    made_old(newest)
    again: Values = {"resume_ckpt": str(newest), "logdir": str(run_dir.parent), "max_epochs": 3}
    assert weighed(again)[0].same_folder
    (run_dir / "settings.json").write_text("")
    with pytest.raises(SettingsError, match="it is empty"):
        resolve_settings(again, None)


def test_a_runs_ckpts_folder_means_the_run_and_other_folders_suggest_the_right_one(
    copy: Path, run_dir: Path, short_values: Values
) -> None:
    given: Values = {"logdir": str(run_dir.parent), "max_epochs": 3}
    start, _ = weighed({**given, "resume_ckpt": str(run_dir / "ckpts")})
    assert start.same_folder and start.base.name.startswith("last-tiny")
    assert settings_for_check({**given, "resume_ckpt": str(run_dir / "ckpts")}, None).settings.data.resolution == 64
    for wrong, right in (
        (copy / "training_state", f"Choose the folder above it: {copy}"),
        (run_dir.parent, f"--resume_ckpt findlast --logdir {run_dir.parent}"),
    ):
        with pytest.raises(ModelError, match=re.escape(right)):
            open_model(resolve_settings({**short_values, "resume_ckpt": str(wrong)}, None).settings, wrong)


@pytest.mark.parametrize("content", ["", "{}", '{"format": 1, "state": "of another program"}'])
def test_findlast_leaves_foreign_folders_alone_and_says_so(run_dir: Path, copy: Path, content: str) -> None:
    theirs = run_dir.parent / "another" / "ckpts" / "c"
    (theirs / "training_state").mkdir(parents=True)
    (theirs / "training_state" / "state.json").write_text(content)
    found = newest_below(run_dir.parent)
    assert found.checkpoint and found.checkpoint.run_dir == run_dir
    assert found.notes[0].startswith(f"{theirs} was not written by this program and is left alone: continuing from")
    assert theirs.is_dir()
    assert newest_state(run_dir.parent) == found.checkpoint.path / "training_state" / "state.json"
    ours = shutil.copytree(copy, theirs.with_name("ours"))
    (ours / "training_state" / "state.json").write_text(content)
    told = " ".join(newest_of_run(theirs.parents[1]).notes)
    assert "ours is damaged (training_state/state.json" in told and "was renamed to .damaged-" in told
