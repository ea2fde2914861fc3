import io
from pathlib import Path

import pytest

from ed2.app.reporters.console import ConsoleReporter
from ed2.events import (
    MetricsLogged,
    PhaseChanged,
    Progressed,
    RunEnded,
    StepDone,
    Warned,
)
from ed2.settings.files import TRAIN_COMMAND
from ed2.text import counted, duration, file_size, rough_duration
from tests.app.events import events_of, started


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


def test_without_a_terminal_there_are_only_lines(run_dir: Path) -> None:
    stream = io.StringIO()
    told(run_dir, stream)
    text = stream.getvalue()
    assert all(letter == "\n" or letter.isprintable() for letter in text)
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[0] == "Training demo: 18 images, 2 epochs, 20 steps, on cpu."
    assert lines[1] == "Note one."
    progress = [line for line in lines if line.startswith("Step ") and "/20" in line]
    assert len(progress) == 4
    assert progress[0].startswith("Step 5/20, loss 0.1234, lr 1e-06, 4.5 images/s, about ")


def test_a_warning_contains_no_control_characters(run_dir: Path) -> None:
    stream = io.StringIO()
    told(run_dir, stream)
    assert "Note: An image is broken." in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_line_about_every_ten_seconds(run_dir: Path) -> None:
    stream = io.StringIO()
    reporter = ConsoleReporter(stream, Clock(1.0))
    reporter(started(run_dir))
    for step in range(1, 21):
        reporter(StepDone(step, 0, 4))
        if step % 5 == 0:
            reporter(MetricsLogged(step, {"loss/log_step": step}))
    steps = [line.split("/")[0] for line in stream.getvalue().splitlines() if line.startswith("Step")]
    assert 4 <= len(steps) <= 8 and len(steps) == len(set(steps)), "a step has one line"


def test_long_work_before_the_first_step_says_how_far_it_is_and_the_time_left(run_dir: Path) -> None:
    for stream, expected in (
        (io.StringIO(), "Caching image 40 of 200, about 3 min left."),
        (Terminal(), "caching image"),
    ):
        reporter = ConsoleReporter(stream, Clock(11.0))
        reporter(started(run_dir))
        reporter(Progressed(0, "caching image", 40, 200, ", about 3 min left"))
        assert expected in stream.getvalue()
        reporter.close()


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
    assert f'--logdir "{run_dir.parent}"' in end


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


def test_a_stopped_run_says_how_to_resume(run_dir: Path) -> None:
    stream = io.StringIO()
    reporter = ConsoleReporter(stream, Clock(0.01))
    reporter(started(run_dir))
    reporter(PhaseChanged(0, "sampling", "4 prompts"))
    reporter(RunEnded(3, "stopped", "stopped and saved", 4.0, run_dir / "ckpts" / "interrupted"))
    assert "Drawing samples: 4 prompts." in stream.getvalue()
    assert f'{TRAIN_COMMAND} --resume_ckpt findlast --logdir "{run_dir.parent}"' in stream.getvalue()


def test_a_terminal_has_a_bar(run_dir: Path) -> None:
    stream = Terminal()
    told(run_dir, stream)
    text = stream.getvalue()
    assert "\r" in text
    assert "20/20" in text
    assert "Epoch 2/2" in text
    assert "loss 0.1234, lr 1e-06, 4.5 images/s" in text


def test_the_bar_of_a_resumed_run_starts_where_it_was(run_dir: Path) -> None:
    stream = Terminal()
    reporter = ConsoleReporter(stream)
    reporter(started(run_dir, step=10))
    reporter.close()
    assert "Continuing demo after step 10" in stream.getvalue()
    assert "Epoch 2/2  50%" in stream.getvalue()


def test_characters_unknown_to_the_terminal_do_no_harm(run_dir: Path) -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="cp1252", newline="\n")
    reporter = ConsoleReporter(stream)
    reporter(Warned(1, "The image 猫.png is broken."))
    assert buffer.getvalue() == b"Note: The image ?.png is broken.\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (counted(1, "step"), "1 step"),
        (counted(12000, "step"), "12,000 steps"),
        (duration(4.21), "4.2 s"),
        (duration(59.6), "1 min"),
        (duration(98), "1 min 38 s"),
        (duration(3600), "1 h"),
        (rough_duration(0.2), "1 s"),
        (rough_duration(37), "40 s"),
        (rough_duration(94.9), "90 s"),
        (rough_duration(47 * 60 + 1), "47 min"),
        (rough_duration(8500), "2 h 20 min"),
        (rough_duration(7170), "2 h"),
        (rough_duration(60_000), "17 h"),
        (duration(7500), "2 h 5 min"),
        (file_size(999), "999 bytes"),
        (file_size(6_480_079), "6.5 MB"),
        (file_size(2_132_000_000), "2.1 GB"),
    ],
)
def test_numbers_are_readable(text: str, expected: str) -> None:
    assert text == expected
