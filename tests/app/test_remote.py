"""A run in several processes that the page or the queue has started: real processes that add up by gloo."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest

from ed2 import errors
from ed2.app.queue import command
from ed2.app.queue.store import RunQueue
from ed2.app.ranks.launcher import LIFELINE, ORDERS
from ed2.app.ranks.members import follow_orders
from ed2.app.ranks.messages import EVENTS, decoded, encoded, error_message, error_of, event_message, event_of
from ed2.app.ranks.parent import RelayedControls
from ed2.app.reporters.jsonl import read_events
from ed2.app.runs.records import find_runs
from ed2.app.service import TrainerService
from ed2.app.signals import ENDED_UNSAVED
from ed2.app.snapshot import RunSnapshot
from ed2.checkpoint.run_lock import other_trainer
from ed2.errors import Ed2Error, FinishedError, ModelError, Problem, RankError, StopRequested
from ed2.events import MetricsLogged, RunEnded, Sample, SampleDrawn, StepDone, Warned
from ed2.settings.files import PROGRAM_DIR
from ed2.training.controls import Controls
from tests.app.events import events_of
from tests.app.test_service import draw_one, wait_for
from tests.faulty_rank import HANGING
from tests.runs import Values, differing
from tests.tiny import make_images

STEPS = 50
PARENT = """
import json, sys, time
from ed2.app.service import TrainerService
service = TrainerService()
service.start(json.loads(sys.argv[1]))
while service.snapshot().step < 3:
    time.sleep(0.05)
print("training", flush=True)
service.wait()
"""
RANK_THAT_ENDS_SOON = """
import sys
from ed2.app import signals
from ed2.app.command import main
from ed2.ranks import group
from tests.faulty_rank import arrange
signals.SILENT_SECONDS, group.ABANDONED_SECONDS = 3.0, 1.0
arrange(sys.argv[1])
sys.exit(main(["--num_processes", "2"]))
"""


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each process, since the bytes of a result depend on their number."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def values(sd1: Path, tmp_path: Path) -> Values:
    """Ten epochs of five steps of two processes."""
    return {
        "project_name": "tiny",
        "data_root": [str(make_images(tmp_path / "images", [(64, 64)] * 10))],
        "resume_ckpt": str(sd1),
        "resolution": 64,
        "batch_size": 1,
        "max_epochs": STEPS // 5,
        "lr": 1e-3,
        "log_step": 1,
        "no_save_ckpt": True,
        "sample_prompts": str(tmp_path / "prompts.json"),
        "sample_steps": 100_000,
        "logdir": str(tmp_path / "logs"),
        "num_processes": 2,
    }


def processes() -> dict[str, psutil.Process]:
    """The processes of the run that this process has started, by rank; it may have others, such as a browser."""
    found = {}
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it is about to begin, or has ended
            found[child.environ().get("RANK", "")] = child
    found.pop("", None)
    return found


def process_of(rank: int) -> psutil.Process:
    """The process of a rank of that run."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if child := processes().get(str(rank)):
            return child
        time.sleep(0.01)
    raise AssertionError(rank)


def ended(service: TrainerService) -> RunSnapshot:
    """How the run ended, which leaves no process behind."""
    assert service.wait(200)
    assert not processes()
    return service.snapshot()


def resumed(stopped: RunSnapshot, values: Values) -> Values:
    return {"resume_ckpt": str(stopped.run_dir), "logdir": values["logdir"]}


@pytest.mark.slow
def test_every_button_acts_on_two_processes_and_the_run_ends_with_the_bytes_of_an_undisturbed_one(
    service: TrainerService, values: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.start(values)
    service.pause()  # while the processes read the libraries: it is not lost
    paused = wait_for(service, lambda shown: shown.state == "paused", 200)
    assert paused.memory and paused.total == STEPS
    draw_one(values)
    service.save_now()
    service.sample_now()
    shown = wait_for(service, lambda s: s.checkpoint is not None and any(x.step == s.step for x in s.samples), 200)
    wait_for(service, lambda s: s.state == "paused", 200)
    assert shown.step == paused.step and shown.samples[-1].sample.path.is_file()
    Path(str(values["sample_prompts"])).unlink()
    service.resume()
    wait_for(service, lambda s: s.step > paused.step, 200)
    service.stop()
    stopped = ended(service)
    assert stopped.state == "stopped" and stopped.run_dir and stopped.checkpoint, stopped.detail
    assert stopped.checkpoint.name.startswith("interrupted-")
    assert "was lost" not in capsys.readouterr().err
    assert list(stopped.curves["loss/log_step"].points)[-1].step == stopped.step
    assert other_trainer(stopped.run_dir) is None
    assert [(run.state, run.trainer) for run in find_runs(stopped.run_dir.parent)] == [("stopped", None)]
    service.start(resumed(stopped, values))
    done = ended(service)
    assert (done.state, done.step, done.run_dir) == ("done", STEPS, stopped.run_dir), done.problems
    checkpoint = trained_by_the_queue({**values, "logdir": str(tmp_path / "queued")}, tmp_path / "queue")
    assert done.checkpoint and not differing(checkpoint, done.checkpoint)


def trained_by_the_queue(values: Values, folder: Path) -> Path:
    """The last checkpoint of a run in two processes that `python -m ed2 queue run` has trained."""
    RunQueue(folder).add(values)
    assert command.main(["--queue", str(folder), "run"]) == 0
    (run,) = RunQueue(folder).runs()
    assert run.state == "done"
    (last,) = Path(run.folder).glob("ckpts/last-*")
    return last


@pytest.mark.slow
def test_a_run_whose_first_process_was_killed_can_be_resumed_after_a_restart_and_stopped_without_saving(
    service: TrainerService, values: Values
) -> None:
    service.start({**values, "max_epochs": 10_000, "save_every_n_epochs": 1})
    wait_for(service, lambda shown: shown.checkpoint is not None, 200)
    process_of(0).kill()
    killed = ended(service)
    assert killed.state == "failed" and killed.checkpoint and killed.run_dir
    assert "Process 0 has ended (signal 9), and the run with it." in killed.detail
    assert f"The newest checkpoint of the run is {killed.checkpoint.name}." in killed.detail
    (before,) = find_runs(killed.run_dir.parent)
    assert (before.state, before.trainer) == ("interrupted", None) and before.resume_step
    restarted = TrainerService()
    restarted.show_last_run(killed.run_dir.parent)
    shown = restarted.snapshot()
    restarted.close()
    assert (shown.state, shown.run_dir) == ("stopped", killed.run_dir)
    assert shown.detail.endswith(f"resume it from step {before.resume_step} in the Resume tab")
    stopped_without_saving(service, resumed(killed, values), killed.run_dir, before.resume_step)


def stopped_without_saving(service: TrainerService, values: Values, run_dir: Path, step: int) -> None:
    """Resume a run from this step, which is its newest checkpoint still after it was stopped."""
    service.start({**values, "save_every_n_epochs": 0})
    wait_for(service, lambda shown: shown.state == "training" and shown.step > step, 200)
    service.stop_without_saving()
    stopped = ended(service)
    assert (stopped.state, stopped.run_dir) == ("stopped", run_dir) and "not saved" in stopped.detail, stopped.detail
    (after,) = find_runs(run_dir.parent)
    assert (after.state, after.resume_step) == ("stopped", step) and after.step > step


@pytest.mark.slow
def test_a_run_stops_and_saves_when_the_program_that_started_it_is_killed(values: Values) -> None:
    argv = [sys.executable, "-c", PARENT, json.dumps({**values, "max_epochs": 10_000})]
    with subprocess.Popen(
        argv, cwd=PROGRAM_DIR, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout and parent.stdout.readline() == "training\n"
        processes = psutil.Process(parent.pid).children()
        parent.kill()
    assert len(processes) == 2
    _, alive = psutil.wait_procs(processes, 200)
    assert not alive
    (run_dir,) = Path(str(values["logdir"])).iterdir()
    (end,) = [event for _, event in read_events(run_dir) if isinstance(event, RunEnded)]
    assert (end.phase, end.signal_number) == ("stopped", signal.SIGTERM)
    assert end.checkpoint and end.checkpoint.name.startswith("interrupted-")


@pytest.mark.slow
def test_no_process_is_left_of_a_run_that_hangs_while_the_program_that_started_it_ends(values: Values) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}

    def process(rank: int, fault: str) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, **place, "RANK": str(rank), LIFELINE: ORDERS}
        argv = [sys.executable, "-c", RANK_THAT_ENDS_SOON, fault]
        return subprocess.Popen(argv, cwd=PROGRAM_DIR, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE)

    first, other = process(0, ""), process(1, "hang")
    try:
        assert first.stdin and other.stdout
        first.stdin.write(encoded(values))
        first.stdin.flush()
        assert other.stdout.readline().decode().strip() == HANGING
        said = first.communicate(timeout=60)[1]  # its input ends, as when that program does
        assert (first.returncode, other.wait(60)) == (1, 1)
        assert ENDED_UNSAVED in said.decode()
    finally:
        first.kill()
        other.kill()
        other.communicate()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_before_training_ends_the_run_at_once(
    service: TrainerService, values: Values, rank: int
) -> None:
    service.start(values)
    process_of(rank).kill()
    shown = ended(service)
    assert shown.state == "failed"
    assert f"Process {rank} has ended (signal 9), and the run with it." in shown.detail
    assert "The run has no checkpoint" in shown.detail


def test_what_keeps_a_run_from_starting_is_shown_like_that_of_one_process(
    service: TrainerService, values: Values, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    service.start({**values, "data_root": [str(empty)]})
    shown = ended(service)
    assert shown.state == "failed" and shown.detail.startswith("There are no images to train on.")
    assert shown.problems[0].path == str(empty)


def test_every_event_arrives_as_it_was_sent(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    sample = Sample(
        3, odd / "3.png", "a \u201ccat\u201d\n", "", 5, (1.0, 7.5), (64, 96), (odd / "a.png", odd / "b.png")
    )
    events = [*events_of(odd), SampleDrawn(4, sample), Warned(4, os.fsdecode(b"\xff"), ends="x")]
    for event in events:
        assert event_of(decoded(encoded(event_message(event)))) == event
    diverged = event_of(decoded(encoded(event_message(MetricsLogged(1, {"a": math.nan, "b": -math.inf})))))
    assert isinstance(diverged, MetricsLogged)
    assert math.isnan(diverged.values["a"]) and diverged.values["b"] == -math.inf
    assert StepDone.__name__ in EVENTS and all(fields(kind) for kind in EVENTS.values())


@pytest.mark.parametrize("line", [b'{"event": "StepDone", "values": {"step": 1', b"[]\n", b"\n"])
def test_a_torn_line_is_no_message(line: bytes) -> None:
    with pytest.raises(ValueError):
        decoded(line)


@pytest.mark.parametrize(
    "error",
    [
        FinishedError("There is nothing left to train:", [Problem("max_epochs", "done.", "Raise it.")]),
        ModelError("The base model is missing:", [Problem("resume_ckpt", "gone.")]),
        RankError("Process 1 failed", "it broke.", "Start again."),
        Ed2Error("Something", "is wrong"),
    ],
)
def test_an_error_arrives_as_it_was_sent(error: Ed2Error) -> None:
    arrived = error_of(decoded(encoded(error_message(error))))
    assert isinstance(arrived, Ed2Error)
    assert type(arrived) is type(error) and str(arrived) == str(error) and arrived.what == error.what
    assert arrived.problems == error.problems


def test_a_stop_and_unknown_errors_arrive_as_something_that_is_shown() -> None:
    stop = error_of(error_message(StopRequested(15)))
    assert isinstance(stop, StopRequested) and stop.signal_number == 15
    assert str(error_of(error_message(ValueError("broken")))) == "ValueError: broken"
    message = error_message(Ed2Error("Something", "is wrong"))
    for name in ("Sequence", "no such name", "printable"):
        assert hasattr(errors, name) == (name != "no such name")
        assert type(error_of({**message, "error": name})) is Ed2Error


def obeyed(lines: list[Mapping[str, object] | bytes]) -> Controls:
    """What is asked of a run after these orders, and the end of the program that gave them."""
    left = iter([line if isinstance(line, bytes) else encoded(line) for line in lines])
    controls = Controls()
    follow_orders(lambda: next(left, b""), controls)
    return controls


def test_orders_are_kept_until_the_run_listens_and_then_passed_on() -> None:
    controls, sent = RelayedControls(), list[Mapping[str, object]]()
    controls.pause()
    controls.ask("sample")
    with controls.relayed(sent.append, [7, 8]):
        assert controls.processes == (7, 8)
        controls.resume()
        controls.ask("save")
        controls.stop(15, save=False)
    controls.pause()
    assert [order["order"] for order in sent] == ["pause", "sample", "resume", "save", "stop"]
    there = obeyed([*sent])
    assert not there.pausing and sorted(there.take()) == ["sample", "save"]
    assert there.stopping and not there.saving
    with pytest.raises(StopRequested) as stop:
        there.raise_if_stopping()
    assert not stop.value.save


def test_nonsense_is_no_order_and_the_end_of_the_orders_stops_and_saves() -> None:
    nonsense: list[Mapping[str, object] | bytes] = [{"order": "exec"}, {"order": ["stop"]}, {}, b"\xff\n", b"7\n"]
    there = obeyed([*nonsense, {"order": "stop", "signal": "now", "save": True}])
    assert there.take() == [] and not there.pausing
    assert there.stopping and there.saving
