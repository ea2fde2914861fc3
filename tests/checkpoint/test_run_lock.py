"""A second trainer on the same run is refused; a dead one holds nothing."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ed2.checkpoint import run_lock
from ed2.checkpoint.run_lock import only_trainer, other_trainer
from ed2.errors import CheckpointError

HOLD = """
import sys, time
from pathlib import Path
from ed2.checkpoint.run_lock import only_trainer
with only_trainer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_another_process_is_named_and_its_death_frees_the_run(tmp_path: Path) -> None:
    assert other_trainer(tmp_path) is None and not list(tmp_path.iterdir())
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError) as error, only_trainer(tmp_path):
            raise AssertionError("held twice")
        for _ in range(2):  # a look takes nothing away
            other = other_trainer(tmp_path)
            assert other and other.pid == holder.pid and other.since and re.match(r"\d{4}-\d\d-\d\d", other.since)
        expected = rf"The run {tmp_path.name} is already being trained: by process {holder.pid} since \d{{4}}-\d\d-\d\d"
        assert re.match(expected, str(error.value))
    finally:
        holder.send_signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
        holder.wait()
    assert other_trainer(tmp_path) is None
    with only_trainer(tmp_path):
        assert (tmp_path / ".lock").exists()
        assert other_trainer(tmp_path) is None  # this program itself is no other


def test_a_run_is_locked_even_if_its_holder_cannot_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_lock, "write_whole", refuse)
    with only_trainer(tmp_path), pytest.raises(CheckpointError, match="by another program"), only_trainer(tmp_path):
        raise AssertionError("held twice")
    assert "is locked, but" in caplog.text and "cannot be locked" not in caplog.text


def test_a_process_can_release_the_lock_and_take_it_again(tmp_path: Path) -> None:
    with only_trainer(tmp_path):
        (tmp_path / ".lock-holder.json").write_text("torn")
        with pytest.raises(CheckpointError, match="by another program"), only_trainer(tmp_path):
            raise AssertionError("held twice")
    with only_trainer(tmp_path):
        pass
