"""What a run writes of itself while its disk is full, and when its files are deleted under it."""

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ed2.app.reporters import growing
from ed2.app.reporters.growing import GrowingFile
from ed2.app.reporters.jsonl import read_events
from ed2.app.run import recording
from ed2.app.run_view import RunView
from ed2.errors import LogWriteError
from ed2.events import Event, EventBus, MetricsLogged, StepDone, Warned
from tests.app.events import samples, started
from tests.app.test_reporters import read_back

needs_limit = pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")


@contextmanager
def full_disk(size: int = 0) -> Iterator[None]:
    """No file of this program grows beyond `size` bytes."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def logged(bus: EventBus, steps: range) -> None:
    for step in steps:
        bus.emit(StepDone(step, 0, 4))
        bus.emit(MetricsLogged(step, {"loss/log_step": step / 100}))


@needs_limit
@pytest.mark.parametrize("room", [0, 700])  # at 700 lines and records are torn in their middle
def test_a_temporarily_full_disk_loses_no_point_and_is_reported_once(
    run_dir: Path, capfd: pytest.CaptureFixture[str], room: int
) -> None:
    told: list[Event] = []
    bus = EventBus([told.append])
    with recording(bus, run_dir, None):
        bus.emit(started(run_dir))
        logged(bus, range(1, 4))
        drawn = samples(run_dir, 4)
        with full_disk(room):
            logged(bus, range(4, 30))
            bus.emit(drawn)
        logged(bus, range(30, 33))
    assert [(e.step, round(e.value, 2)) for e in read_back(run_dir).Scalars("loss/log_step")] == [
        (step, step / 100) for step in range(1, 33)
    ]
    assert [p.step for p in read_back(run_dir).Images("sample/1")] == [4]
    lines = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "MetricsLogged"] == list(range(1, 33))
    log = (run_dir / "run.log").read_text()
    assert [f"Step {step}: loss" in log for step in range(1, 33)] == [True] * 32
    assert all(line[:2] == "20" for line in log.splitlines())
    warned = [event.text for event in told if isinstance(event, Warned) and not event.ends]
    assert [text.split(" cannot be written: the disk is full")[0] for text in warned] == [
        "The list of events events.jsonl",
        "The TensorBoard curves",
    ]
    over = [event for event in told if isinstance(event, Warned) and event.ends]
    assert sorted(event.ends for event in over) == sorted(warned)
    page = RunView()
    for event in told:
        page(event)
    assert page.snapshot().problems == ()
    assert "Traceback" not in log + "".join(capfd.readouterr())


def test_a_folder_deleted_during_the_run_is_written_again(run_dir: Path) -> None:
    bus = EventBus()
    with recording(bus, run_dir, None):
        bus.emit(started(run_dir))
        logged(bus, range(1, 4))
        shutil.rmtree(run_dir)
        logged(bus, range(4, 7))
    assert [e.step for e in read_back(run_dir).Scalars("loss/log_step")] == [4, 5, 6]
    assert read_back(run_dir).Tensors("config/text_summary")
    events = [event for _, event in read_events(run_dir)]
    assert [type(event).__name__ for event in events] == ["RunStarted", *["MetricsLogged"] * 3]
    assert "Step 6" in (run_dir / "run.log").read_text()


@needs_limit
def test_kept_entries_are_bounded_and_lost_ones_are_reported_at_the_end(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(growing, "KEPT_BYTES", 1_000)
    bus = EventBus()
    with full_disk(), caplog.at_level(logging.ERROR), recording(bus, run_dir, None):
        logged(bus, range(1, 100))
    texts = [record.getMessage() for record in caplog.records]
    assert any(text.startswith("The TensorBoard curves: 99 entries could not be written") for text in texts)
    assert any("the disk is full" in text for text in texts)


def test_an_unfinished_line_of_a_killed_program_is_ended_first(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_bytes(b"one\ntw")
    file = GrowingFile(path, "The log")
    file.write(b"three\n")
    assert file.close() == ""
    assert path.read_bytes() == b"one\ntw\nthree\n"


@needs_limit
def test_a_torn_piece_that_cannot_be_removed_at_once_is_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(file: object, content: bytes) -> None:
        path.write_bytes(b"one\ntw")
        raise OSError(5, "Input/output error")

    path = tmp_path / "curves"
    file = GrowingFile(path, "The curves", is_text=False)
    file.write(b"one\n")
    with monkeypatch.context() as patched:
        patched.setattr(growing, "append_whole", torn)
        with pytest.raises(LogWriteError, match="The curves cannot be written: the drive reports an error"):
            file.write(b"two\n")
    file.write(b"three\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"
