import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ed2.app.reporters import ConsoleReporter, JsonlReporter, LogReporter, TensorBoardReporter, cut_back
from ed2.app.reporters.texts import counted, duration, file_size
from ed2.events import (
    CheckpointSaved,
    EpochEnded,
    Event,
    MetricsLogged,
    PhaseChanged,
    RunEnded,
    RunStarted,
    Sample,
    SamplesMade,
    StepDone,
    Warned,
)

FIGURES = {"loss/log_step": 0.1234, "hyperparameter/lr unet": 1e-6, "performance/images per second": 4.5}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "my logs" / "demo_20250101-120000"
    folder.mkdir(parents=True)
    return folder


def started(run_dir: Path, step: int = 0) -> RunStarted:
    return RunStarted(
        step, "demo", run_dir, 20, step // 10, 2, 18, "cpu", {"lr": 1e-6, "data_root": ["a"]}, ("Note one.",)
    )


def samples(run_dir: Path, step: int) -> SamplesMade:
    made = []
    for index in range(2):
        path = run_dir / "samples" / f"gs{step:05d}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30 + index, 20), (step, 50, 90)).save(path)
        made.append(Sample(index, path, "a cat", "", 5, (1.0, 4.0, 7.0), (64, 64)))
    return SamplesMade(step, tuple(made), 1.5)


def events_of(run_dir: Path, first: int = 1) -> Iterator[Event]:
    yield started(run_dir, first - 1)
    for step in range(first, 21):
        yield StepDone(step, step // 10, 4)
        if step % 5 == 0:
            yield MetricsLogged(step, FIGURES)
        if step % 10 == 0:
            yield EpochEnded(step, step // 10 - 1, 0.2, 0.5)
            yield PhaseChanged(step, "sampling", "2 prompts")
            yield samples(run_dir, step)
            yield PhaseChanged(step, "training")
    yield Warned(20, "A picture \x1b[31mis\x1b[0m broken.")
    checkpoint = run_dir / "ckpts" / "last-demo-ep01-gs00020"
    yield CheckpointSaved(20, 1, "last", checkpoint, run_dir / "last.safetensors", 6_480_079, 0.4)
    yield RunEnded(20, "done", "", 75.0, checkpoint, run_dir / "last.safetensors")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self, per_call: float) -> None:
        self.now, self.per_call = 0.0, per_call

    def __call__(self) -> float:
        self.now += self.per_call
        return self.now


def told(run_dir: Path, stream: io.StringIO | io.TextIOWrapper, clock: Clock | None = None) -> ConsoleReporter:
    reporter = ConsoleReporter(stream, clock or Clock(0.01))
    for event in events_of(run_dir):
        reporter(event)
    reporter.close()
    return reporter


# the terminal


def test_lines_alone_where_nobody_watches(run_dir: Path) -> None:
    stream = io.StringIO()
    told(run_dir, stream)
    text = stream.getvalue()
    assert all(letter == "\n" or letter.isprintable() for letter in text)
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[0] == "Training demo: 18 pictures, 2 epochs, 20 steps, on cpu."
    assert lines[1] == "Note one."
    progress = [line for line in lines if line.startswith("Step ") and "/20" in line]
    assert len(progress) == 4
    assert progress[0].startswith("Step 5/20, loss 0.1234, lr 1e-06, 4.5 images/s, about ")


def test_a_warning_brings_no_control_characters(run_dir: Path) -> None:
    stream = io.StringIO()
    told(run_dir, stream)
    assert "Note: A picture is broken." in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_line_about_every_ten_seconds(run_dir: Path) -> None:
    stream = io.StringIO()
    reporter = ConsoleReporter(stream, Clock(1.0))
    reporter(started(run_dir))
    for step in range(1, 21):
        reporter(StepDone(step, 0, 4))
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("Step")]
    assert 1 <= len(lines) <= 4


def test_the_end_says_what_was_made_and_where(run_dir: Path) -> None:
    stream = io.StringIO()
    told(run_dir, stream)
    end = stream.getvalue().split("Done after 20 steps in 1 min 15 s.")[1]
    for place in (
        run_dir,
        run_dir / "ckpts" / "last-demo-ep01-gs00020",
        run_dir / "last.safetensors",
        run_dir / "samples",
    ):
        assert str(place) in end
    assert f'tensorboard --logdir "{run_dir.parent}"' in end


def test_the_end_names_the_contact_sheet(run_dir: Path) -> None:
    sheet = run_dir / "samples" / "contact_sheet.png"
    sheet.parent.mkdir()
    sheet.touch()
    stream = io.StringIO()
    told(run_dir, stream)
    assert str(sheet) in stream.getvalue()


def test_a_failed_run_says_why(run_dir: Path) -> None:
    stream = io.StringIO()
    reporter = ConsoleReporter(stream)
    reporter(started(run_dir))
    reporter(RunEnded(3, "failed", "The disk is full.", 4.0))
    assert "Failed after 3 steps in 4.0 s: The disk is full." in stream.getvalue()
    assert "Checkpoint" not in stream.getvalue()


def test_a_terminal_has_a_bar(run_dir: Path) -> None:
    stream = Terminal()
    told(run_dir, stream)
    text = stream.getvalue()
    assert "\r" in text
    assert "20/20" in text
    assert "Epoch 2/2" in text
    assert "loss 0.1234, lr 1e-06, 4.5 images/s" in text


def test_the_bar_of_a_continued_run_begins_where_it_was(run_dir: Path) -> None:
    stream = Terminal()
    reporter = ConsoleReporter(stream)
    reporter(started(run_dir, step=10))
    reporter.close()
    assert "Continuing demo after step 10" in stream.getvalue()
    assert "Epoch 2/2  50%" in stream.getvalue()


def test_letters_that_the_terminal_does_not_know_do_no_harm(run_dir: Path) -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="cp1252", newline="\n")
    reporter = ConsoleReporter(stream)
    reporter(Warned(1, "The picture 猫.png is broken."))
    assert buffer.getvalue() == b"Note: The picture ?.png is broken.\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (counted(1, "step"), "1 step"),
        (counted(12000, "step"), "12,000 steps"),
        (duration(4.21), "4.2 s"),
        (duration(59.6), "1 min 0 s"),
        (duration(7500), "2 h 5 min"),
        (file_size(999), "999 bytes"),
        (file_size(6_480_079), "6.5 MB"),
        (file_size(2_132_000_000), "2.1 GB"),
    ],
)
def test_numbers_for_people(text: str, expected: str) -> None:
    assert text == expected


# TensorBoard


def read_back(run_dir: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run_dir), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def test_tensorboard_has_curves_pictures_and_settings(run_dir: Path) -> None:
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
    pictures = board.Images("sample/1")
    assert [(p.step, p.width, p.height) for p in pictures] == [(10, 31, 20), (20, 31, 20)]
    (config,) = board.Tensors("config/text_summary")
    assert b'"lr": 1e-06' in config.tensor_proto.string_val[0]


def test_tensorboard_hides_what_came_after_the_step_of_a_resume(run_dir: Path) -> None:
    before = TensorBoardReporter(run_dir)
    for step in (5, 10, 15):
        before(MetricsLogged(step, {"loss/log_step": 1.0}))
    before.close()
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


def test_events_are_appended_by_a_continued_run(run_dir: Path) -> None:
    for step in (1, 2):
        reporter = JsonlReporter(run_dir)
        reporter(Warned(step, "x"))
        reporter.close()
    assert [line["step"] for line in lines_of(run_dir / "events.jsonl")] == [1, 2]


def test_cut_back_takes_out_later_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    kept = [{"step": 0, "text": "ä"}, {"step": 12}, {"step": 10}]
    lines = [json.dumps(line, ensure_ascii=False) for line in [*kept[:1], {"step": 13}, *kept[1:], {"step": 400}]]
    path.write_text("\n".join(lines) + '\n{"step": 3, "te', encoding="utf-8")
    cut_back(path, 12)
    assert lines_of(path) == kept
    assert path.read_bytes().endswith(b"\n")
    assert list(tmp_path.iterdir()) == [path]


def test_cut_back_leaves_alone_what_needs_no_cut(tmp_path: Path) -> None:
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
    assert lines[0].endswith("INFO Training demo: 18 pictures, 2 epochs, 20 steps, on cpu.")
    assert lines[1].endswith("INFO Note one.")
    assert any(line.endswith("WARNING A picture is broken.") for line in lines)
    assert any("loss/log_step 0.1234" in line for line in lines)
    assert any(line.endswith("INFO A message of the program.") for line in lines)
    assert lines[0][:19].count(":") == 2
    assert lines[0][10] == "T"


def test_a_failing_observer_is_logged_with_its_trace(run_dir: Path) -> None:
    from ed2.events import EventBus

    def fail(event: Event) -> None:
        raise ValueError("no such picture")

    reporter = LogReporter(run_dir)
    EventBus([fail, reporter]).emit(Warned(1, "x"))
    reporter.close()
    text = (run_dir / "run.log").read_text(encoding="utf-8")
    assert "ValueError: no such picture" in text
    assert "WARNING x" in text
