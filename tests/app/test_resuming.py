"""What is said of a run that goes on, and where it cannot."""

import errno
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ed2.app import run
from ed2.app.checks.check import run_check
from ed2.app.reporters.jsonl import read_events
from ed2.app.resume_test.comparison import differences
from ed2.app.run_spec import RunSpec
from ed2.app.run_view import RunView
from ed2.app.runs import folder as run_folder
from ed2.errors import CheckpointError, Ed2Error, FinishedError, SettingsError
from ed2.events import CheckpointSaved, RunEnded, Sample, SamplesMade, ValidationDone
from ed2.sampling import job
from ed2.training.controls import Controls
from tests.resolved import resolved
from tests.runs import Trained, said, train
from tests.torture.kills import PROMPTS

Values = dict[str, object]


def test_other_versions_threads_and_devices_are_reported(values: Values) -> None:
    first = train(values, stop_at=3)
    state = first.checkpoint / "training_state" / "state.json"
    before = json.loads(state.read_text())
    assert {"torch", "everydream", "python"} <= before["versions"].keys()
    again: Values = {"resume_ckpt": str(first.checkpoint), "logdir": values["logdir"]}
    now = {"versions": {**before["versions"], "torch": "99.0"}, "device": before["device"], "threads": 7}
    weighed = resolved(again, now)
    assert weighed.same_folder
    told = weighed.notes[-1]
    assert told.startswith("Results will not be bit-identical: torch ")
    assert "-> 99.0, computing threads 1 -> 7." in told
    assert not any("bit-identical" in note for note in resolved(again, before).notes)


def test_findlast_reports_a_run_killed_before_its_first_checkpoint(values: Values) -> None:
    killed = train(values, stop_at=1)
    shutil.rmtree(killed.checkpoint)
    with pytest.raises(SettingsError, match=r"ended before its first checkpoint\. Start it again with --config"):
        train({"resume_ckpt": "findlast", "logdir": values["logdir"]})
    with pytest.raises(CheckpointError, match="ended before its first checkpoint"):
        train({"resume_ckpt": str(killed.run_dir), "logdir": values["logdir"]})


def test_a_check_of_a_checkpoint_plans_with_the_settings_of_its_run(values: Values) -> None:
    first = train(values, stop_at=3)
    for name in ("findlast", str(first.checkpoint), str(first.run_dir)):
        known = run_check({"resume_ckpt": name, "logdir": values["logdir"], "max_epochs": 5}, None, quiet=True)
        assert len(known.dataset.examples) == 8
        assert (known.settings.data.resolution, known.settings.data.batch_size) == (64, 2)
        assert known.settings.run.max_epochs == 5
        assert known.settings.model.resume_ckpt == str(first.checkpoint)
        assert f"taken from the run {first.run_dir.name}" in " ".join(known.notes)


def test_a_single_file_missing_after_a_kill_is_written_when_the_run_resumes(values: Values) -> None:
    first = train(values)
    assert first.ended.single_file
    content = first.ended.single_file.read_bytes()
    first.ended.single_file.unlink()
    with pytest.raises(FinishedError):  # it was written once, so its owner has moved it away
        train({"resume_ckpt": str(first.run_dir), "logdir": values["logdir"]})
    assert not first.ended.single_file.exists()
    events = first.run_dir / "events.jsonl"
    events.write_text("".join(line for line in events.open() if "CheckpointSaved" not in line))
    with pytest.raises(FinishedError):
        train({"resume_ckpt": str(first.run_dir), "logdir": values["logdir"]})
    assert first.ended.single_file.read_bytes() == content


def test_half_written_files_of_a_killed_program_are_removed(values: Values) -> None:
    first = train(values, stop_at=3)
    left = [first.run_dir / ".tmp-1-pictures.json", first.run_dir / "ckpts" / ".tmp-1-last", first.run_dir / ".a.tmp"]
    left[1].mkdir()
    for path in (left[0], left[2]):
        path.write_text("half")
    never, held, other = (Path(str(values["logdir"])) / name for name in ("never", "held", "other"))
    for run_dir in (never, held, other):
        (run_dir / "ckpts" / ".tmp-1-tiny").mkdir(parents=True)
        (run_dir / ("events.jsonl" if run_dir != other else "of the user")).write_text("")
    with FileLock(held / ".lock"):
        train({"resume_ckpt": str(first.run_dir), "logdir": values["logdir"]})
    assert not any(path.exists() for path in left)
    halves = [path.parts[-3] for path in never.parent.glob("*/ckpts/.tmp-*")]
    assert sorted(halves) == ["held", "other"], "the halves of a run that nobody trains go, even if it never goes on"


def test_a_read_only_log_is_set_aside_and_a_read_only_folder_is_reported(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(values, stop_at=3)
    log = first.run_dir / "events.jsonl"
    log.unlink()
    log.mkdir()
    (log / "something").write_text("of the user")
    second = train({"resume_ckpt": str(first.run_dir), "logdir": values["logdir"]}, stop_at=4)
    assert "The run's events.jsonl cannot be written (there is a folder where its file should be)" in said(second)
    (kept,) = first.run_dir.glob("events.jsonl.unusable-*/something")
    assert kept.read_text() == "of the user"
    assert [type(event) for _, event in read_events(first.run_dir)][-1] is RunEnded

    def refuse(*anything: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched, pytest.raises(Ed2Error) as told:
        patched.setattr(run_folder, "remove_half_files", refuse)
        train({"resume_ckpt": str(first.run_dir), "logdir": values["logdir"]})
    assert f"The folder {first.run_dir} cannot be written: the drive is read-only. Check its owner" in str(told.value)
    real = tempfile.TemporaryFile

    def read_only(dir: Path, prefix: str) -> Any:
        return refuse() if dir == first.run_dir else real(dir=dir, prefix=prefix)

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    before = sorted(first.run_dir.rglob("*"))
    third = train({"resume_ckpt": str(first.run_dir), "logdir": values["logdir"]})
    assert f"Continuing in a new folder: {first.run_dir} cannot be written (the drive is read-only)." in said(third)
    assert (third.ended.phase, third.run_dir.parent) == ("done", first.run_dir.parent)
    assert sorted(first.run_dir.rglob("*")) == before


def test_a_run_that_another_program_has_trained_further_is_left_alone(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(values, stop_at=3)
    real = run.make_run_folder

    def other_is_faster(spec: RunSpec) -> Path:
        """Between the choice of the checkpoint and the lock, which may be minutes of reading images."""
        monkeypatch.setattr(run, "make_run_folder", real)
        train({"resume_ckpt": str(first.run_dir)}, stop_at=6)
        return real(spec)

    monkeypatch.setattr(run, "make_run_folder", other_is_faster)
    with pytest.raises(CheckpointError, match="has moved on: another program has trained it in the meantime"):
        train({"resume_ckpt": str(first.run_dir)})
    assert [event.step for _, event in read_events(first.run_dir)][-1] == 6


def stopped_at_image(count: int, values: Values, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Run, and stop when so many sample images of step 4 are on the disk."""
    controls, real, made = Controls(), job.list_sample, list[Sample]()

    def write(run_dir: Path, **options: Any) -> Sample:
        sample = real(run_dir, **options)
        made.extend([sample] if options["step"] == 4 else [])
        if len(made) == count:
            controls.stop(2)
        return sample

    with monkeypatch.context() as patched:
        patched.setattr(job, "list_sample", write)
        return train(values, controls=controls)


def test_a_stop_during_validation_and_samples_loses_none_and_duplicates_none(
    values: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps({**PROMPTS, "batch_size": 1}))
    values |= {"sample_prompts": str(tmp_path / "prompts.json"), "sample_steps": 4, "log_step": 1}
    values |= {"val_split_mode": "automatic", "auto_split_proportion": 0.25, "every_n_epochs": 0.25}
    straight = train(values)
    first = train(values, stop_at=4)  # before the validation and the samples of that step
    assert first.of(ValidationDone)[-1].step < 4
    assert first.of(SamplesMade)[-1].step == 0
    again: Values = {"resume_ckpt": "findlast", "logdir": values["logdir"]}
    second = stopped_at_image(1, again, monkeypatch)
    assert [event.step for event in second.of(ValidationDone)] == [4]
    assert [(event.step, len(event.samples), event.is_whole) for event in second.of(SamplesMade)] == [(4, 1, False)]
    third = stopped_at_image(2, again, monkeypatch)
    assert not third.of(ValidationDone), "it was done when the run went on before"
    assert [(event.step, len(event.samples), event.is_whole) for event in third.of(SamplesMade)] == [(4, 2, True)]
    last = train(again)
    assert 4 not in {event.step for event in (*last.of(ValidationDone), *last.of(SamplesMade))}
    assert last.run_dir == second.run_dir == third.run_dir
    assert not differences(straight.run_dir, last.run_dir)
    assert shown_samples(last.run_dir) == shown_samples(straight.run_dir)
    assert len(shown_samples(last.run_dir)) == 2 * len({step for step, _ in shown_samples(last.run_dir)})


def test_the_end_of_a_run_is_completed_after_a_kill_or_a_stop(values: Values, tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    values |= {"sample_prompts": str(tmp_path / "prompts.json"), "sample_steps": 100, "max_epochs": 1, "log_step": 1}
    again: Values = {"resume_ckpt": "findlast", "logdir": values["logdir"]}
    straight = train(values)
    single, sheet = straight.ended.single_file, straight.run_dir / "samples" / "contact_sheet.png"
    assert single and sheet.is_file()
    kept = shutil.copytree(straight.run_dir, tmp_path / "kept")
    with pytest.raises(FinishedError):
        train(again)
    events = straight.run_dir / "events.jsonl"
    for lost in (["RunEnded"], ["RunEnded", "CheckpointSaved"]):  # killed before its log said that
        told = (kept / "events.jsonl").read_text().splitlines(keepends=True)
        events.write_text("".join(line for line in told if not any(kind in line for kind in lost)))
        for file in (sheet, *([single] if "CheckpointSaved" in lost else [])):
            file.unlink()
        ended = train(again)
        assert (ended.ended.phase, ended.ended.step, ended.run_dir) == ("done", 5, straight.run_dir)
        assert (ended.checkpoint, ended.ended.single_file) == (straight.checkpoint, single)
        assert len(ended.of(CheckpointSaved)) == ("CheckpointSaved" in lost)
        assert not ended.of(SamplesMade)
        assert "All epochs are done; finishing the samples and files that were missing." in said(ended)
        assert sheet.is_file() and single.is_file()
        assert not differences(kept, straight.run_dir)
        with pytest.raises(FinishedError):
            train(again)
    stopped = train(values, stop_at=5)
    assert (stopped.ended.phase, stopped.checkpoint.name) == ("stopped", straight.checkpoint.name)
    assert 5 not in {event.step for event in stopped.of(SamplesMade)}
    ended = train(again)
    assert (ended.ended.phase, [event.step for event in ended.of(SamplesMade)]) == ("done", [5])
    assert shown_samples(ended.run_dir) == shown_samples(straight.run_dir)
    left = f"{stopped.checkpoint.name}/training_state/state.json"  # it says what the stop has cut short
    assert differences(straight.run_dir, ended.run_dir) == [left]
    with pytest.raises(FinishedError):
        train(again)


def shown_samples(run_dir: Path) -> list[tuple[int, str]]:
    """The step and file of each image of the gallery."""
    view = RunView()
    view.replay(run_dir)
    return [(shown.step, shown.sample.path.relative_to(run_dir).as_posix()) for shown in view.snapshot().samples]
