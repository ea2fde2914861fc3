import json
import logging
import warnings
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ed2.app.reporters.jsonl import JsonlReporter, cut_back
from ed2.app.reporters.log import LogReporter
from ed2.app.reporters.tensorboard import TensorBoardReporter
from ed2.events import (
    Event,
    EventBus,
    MetricsLogged,
    RunEnded,
    StepDone,
    Warned,
)
from tests.app.events import FIGURES, events_of

# TensorBoard


def read_back(run_dir: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run_dir), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def test_tensorboard_has_curves_images_and_settings(run_dir: Path) -> None:
    reporter = TensorBoardReporter(run_dir)
    for event in events_of(run_dir):
        reporter(event)
    reporter.close()
    assert [path.name.split(".")[:3] for path in run_dir.glob("events.*")] == [["events", "out", "tfevents"]]
    board = read_back(run_dir)
    tags = board.Tags()
    assert set(tags["scalars"]) == {*FIGURES, "loss/epoch", "performance/minutes per epoch"}
    assert tags["images"] == ["sample/0", "sample/1"]
    assert [event.step for event in board.Scalars("loss/log_step")] == [5, 10, 15, 20]
    assert board.Scalars("loss/epoch")[0].value == pytest.approx(0.2)
    images = board.Images("sample/1")
    assert [(p.step, p.width, p.height) for p in images] == [(10, 31, 20), (20, 31, 20)]
    (config,) = board.Tensors("config/text_summary")
    assert b'"lr": 1e-06' in config.tensor_proto.string_val[0]


@pytest.mark.parametrize("second", ["", "4102444800"], ids=["", "with a clock that was set back"])
def test_tensorboard_hides_what_came_after_the_step_of_a_resume(run_dir: Path, second: str) -> None:
    before = TensorBoardReporter(run_dir)
    for step in (5, 10, 15):
        before(MetricsLogged(step, {"loss/log_step": 1.0}))
    before.close()
    (file,) = run_dir.glob("events.*")
    file.rename(
        file.with_name(".".join(second or part if n == 3 else part for n, part in enumerate(file.name.split("."))))
    )
    after = TensorBoardReporter(run_dir, purge_step=11)
    for step in (12, 15):
        after(MetricsLogged(step, {"loss/log_step": 2.0}))
    after.close()
    assert [(e.step, e.value) for e in read_back(run_dir).Scalars("loss/log_step")] == [
        (5, 1),
        (10, 1),
        (12, 2),
        (15, 2),
    ]


def test_tensorboard_without_events_writes_nothing(run_dir: Path) -> None:
    reporter = TensorBoardReporter(run_dir)
    reporter(StepDone(1, 0, 4))
    reporter.close()
    reporter.close()
    assert list(run_dir.iterdir()) == []


# events.jsonl


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_event_but_single_steps_is_a_line(run_dir: Path) -> None:
    reporter = JsonlReporter(run_dir)
    for event in events_of(run_dir):
        reporter(event)
    lines = lines_of(run_dir / "events.jsonl")  # before it is closed: each line is flushed
    reporter.close()
    assert [line["event"] for line in lines[:2]] == ["RunStarted", "MetricsLogged"]
    assert lines[-1]["event"] == "RunEnded"
    assert not any(line["event"] == "StepDone" for line in lines)
    assert all(str(line["time"]).endswith("+00:00") for line in lines)
    assert lines[0]["run_dir"] == "."
    assert lines[0]["config"] == {"lr": 1e-6, "data_root": ["a"]}
    assert lines[-1]["checkpoint"] == "ckpts/last-demo-ep01-gs00020"
    made = next(line for line in lines if line["event"] == "SamplesMade")
    assert made["samples"][1]["path"] == "samples/gs00010/01.png"
    assert made["samples"][1]["cfgs"] == [1.0, 4.0, 7.0]


def test_foreign_paths_stay_whole_and_numbers_that_are_not_finite_are_null(run_dir: Path, tmp_path: Path) -> None:
    reporter = JsonlReporter(run_dir)
    reporter(MetricsLogged(1, {"loss/log_step": float("nan"), "x": float("inf")}))
    reporter(RunEnded(1, "done", "odd \udce9 name", 1.0, single_file=tmp_path / "last.safetensors"))
    reporter.close()
    first, second = lines_of(run_dir / "events.jsonl")
    assert first["values"] == {"loss/log_step": None, "x": None}
    assert second["single_file"] == str(tmp_path / "last.safetensors")
    assert second["checkpoint"] is None


def test_events_are_appended_by_a_resumed_run(run_dir: Path) -> None:
    for step in (1, 2):
        reporter = JsonlReporter(run_dir)
        reporter(Warned(step, "x"))
        reporter.close()
    assert [line["step"] for line in lines_of(run_dir / "events.jsonl")] == [1, 2]


def test_cut_back_removes_later_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    kept = [{"step": 0, "text": "ä"}, {"step": 12}, {"step": 10}]
    lines = [json.dumps(line, ensure_ascii=False) for line in [*kept[:1], {"step": 13}, *kept[1:], {"step": 400}]]
    path.write_text("\n".join(lines) + '\n{"step": 3, "te', encoding="utf-8")
    cut_back(path, 12)
    assert lines_of(path) == kept
    assert path.read_bytes().endswith(b"\n")
    assert list(tmp_path.iterdir()) == [path]


def test_cut_back_leaves_a_clean_file_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    cut_back(path, 3)
    assert not path.exists()
    path.write_text('{"step": 3}\n')
    before = path.stat().st_mtime_ns, path.stat().st_ino
    cut_back(path, 3)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


# run.log


def test_the_log_has_events_messages_and_warnings_in_plain_text(run_dir: Path) -> None:
    logger = logging.getLogger("ed2")
    level, handlers = logger.level, list(logger.handlers)
    reporter = LogReporter(run_dir)
    for event in events_of(run_dir):
        reporter(event)
    logging.getLogger("ed2.data").info("A message of %s.", "the program")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = logging._showwarning  # as outside of a test: pytest records warnings itself
        warnings.warn("a library's warning", FutureWarning, stacklevel=1)
    reporter.close()
    logging.getLogger("ed2.data").warning("after the end")
    text = (run_dir / "run.log").read_text(encoding="utf-8")
    assert (logger.level, logger.handlers) == (level, handlers)
    assert "\x1b" not in text
    assert "after the end" not in text
    assert "a library's warning" in text
    lines = text.splitlines()
    assert lines[0].endswith("INFO Training demo: 18 images, 2 epochs, 20 steps, on cpu.")
    assert lines[1].endswith("INFO Note one.")
    assert any(line.endswith("WARNING An image is broken.") for line in lines)
    assert any("loss 0.1234, learning rate 1e-06, 4.5 images/s" in line for line in lines)
    assert any(line.endswith("INFO A message of the program.") for line in lines)
    assert lines[0][:19].count(":") == 2
    assert lines[0][10] == "T"


def test_a_failing_observer_is_logged_with_its_trace(run_dir: Path) -> None:
    def fail(event: Event) -> None:
        raise ValueError("no such image")

    reporter = LogReporter(run_dir)
    EventBus([fail, reporter]).emit(Warned(1, "x"))
    reporter.close()
    text = (run_dir / "run.log").read_text(encoding="utf-8")
    assert "ValueError: no such image" in text
    assert "WARNING x" in text


def test_an_observer_that_keeps_failing_is_reported_once_until_it_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    is_full, now = True, 0.0

    def observer(event: Event) -> None:
        if is_full and isinstance(event, Warned):
            raise OSError(28, "No space left on device")

    bus = EventBus([observer], clock=lambda: now)
    for step in range(3):
        bus.emit(Warned(step, "x"))
        bus.emit(StepDone(step, 0, 4))  # which the observer passes over
    assert [record.getMessage() for record in caplog.records] == [
        "An observer failed on Warned: the disk is full. The run continues."
    ]
    assert not caplog.records[0].exc_info
    now = 61.0
    bus.emit(Warned(3, "x"))
    assert len(caplog.records) == 2
    is_full = False
    bus.emit(Warned(4, "x"))
    is_full = True
    bus.emit(Warned(5, "x"))
    assert len(caplog.records) == 3
