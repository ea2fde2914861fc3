"""What is said of a run that goes on, and where it cannot."""

import json
import shutil
from pathlib import Path

import pytest

from ed2.app.check import checked
from ed2.app.comparison import differences
from ed2.app.scanning import scan_dataset
from ed2.app.start import choose_start, weigh
from ed2.errors import CheckpointError, FinishedError, SettingsError
from ed2.events import SamplesMade, ValidationDone
from tests.runs import train
from tests.torture.kills import PROMPTS

Values = dict[str, object]


def test_other_versions_threads_and_devices_are_told(values: Values) -> None:
    first = train(values, stop_at=3)
    state = first.checkpoint / "training_state" / "state.json"
    before = json.loads(state.read_text())
    assert {"torch", "everydream", "python"} <= before["versions"].keys()
    start = choose_start({"resume_ckpt": str(first.checkpoint), "logdir": values["logdir"]}, None)
    dataset = scan_dataset(start.settings)
    now = {"versions": {**before["versions"], "torch": "99.0"}, "device": before["device"], "threads": 7}
    weighed = weigh(start, dataset, now)
    assert weighed.same_folder
    told = weighed.notes[-1]
    assert told.startswith("It goes on, but not byte-exact: torch ")
    assert "-> 99.0, computing threads 1 -> 7." in told
    assert not any("not byte-exact" in note for note in weigh(start, dataset, before).notes)


def test_a_run_killed_before_its_first_checkpoint_is_told_by_findlast(values: Values) -> None:
    killed = train(values, stop_at=1)
    shutil.rmtree(killed.checkpoint)
    with pytest.raises(SettingsError, match=r"ended before its first checkpoint\. Start it again with --config"):
        train({"resume_ckpt": "findlast", "logdir": values["logdir"]})
    with pytest.raises(CheckpointError, match="ended before its first checkpoint"):
        train({"resume_ckpt": str(killed.run_dir), "logdir": values["logdir"]})


def test_a_check_of_a_checkpoint_plans_with_the_settings_of_its_run(values: Values) -> None:
    first = train(values, stop_at=3)
    for name in ("findlast", str(first.checkpoint), str(first.run_dir)):
        known = checked({"resume_ckpt": name, "logdir": values["logdir"], "max_epochs": 5}, None, quiet=True)
        assert len(known.dataset.examples) == 8
        assert (known.settings.data.resolution, known.settings.data.batch_size) == (64, 2)
        assert known.settings.run.max_epochs == 5
        assert known.settings.model.resume_ckpt == str(first.checkpoint)
        assert f"those of the run {first.run_dir.name}" in " ".join(known.notes)


def test_a_single_file_that_a_killed_program_did_not_write_is_written_when_the_run_goes_on(values: Values) -> None:
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


def test_what_a_killed_program_left_half_written_is_removed(values: Values) -> None:
    first = train(values, stop_at=3)
    left = [first.run_dir / ".tmp-1-pictures.json", first.run_dir / "ckpts" / ".tmp-1-last", first.run_dir / ".a.tmp"]
    left[1].mkdir()
    for path in (left[0], left[2]):
        path.write_text("half")
    train({"resume_ckpt": str(first.run_dir), "logdir": values["logdir"]})
    assert not any(path.exists() for path in left)


def test_a_stop_that_cuts_validation_and_samples_short_loses_none_of_them(values: Values, tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    values |= {"sample_prompts": str(tmp_path / "prompts.json"), "sample_steps": 4, "max_epochs": 2, "log_step": 1}
    values |= {"val_split_mode": "automatic", "auto_split_proportion": 0.25, "every_n_epochs": 0.25}
    straight = train(values)
    stopped = train(values, stop_at=4)
    assert stopped.of(ValidationDone)[-1].step < 4
    assert stopped.of(SamplesMade)[-1].step == 0
    resumed = train({"resume_ckpt": "findlast", "logdir": values["logdir"]})
    assert resumed.of(ValidationDone)[0].step == resumed.of(SamplesMade)[0].step == 4
    assert not differences(straight.run_dir, resumed.run_dir)
