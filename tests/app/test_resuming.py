"""What is said of a run that goes on, and where it cannot."""

import json
import shutil

import pytest

from ed2.app.scanning import scan_dataset
from ed2.app.start import choose_start, weigh
from ed2.errors import CheckpointError, SettingsError
from tests.runs import train

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
    with pytest.raises(SettingsError, match="ended before its first checkpoint: start it again with --config"):
        train({"resume_ckpt": "findlast", "logdir": values["logdir"]})
    with pytest.raises(CheckpointError, match="ended before its first checkpoint"):
        train({"resume_ckpt": str(killed.run_dir), "logdir": values["logdir"]})
