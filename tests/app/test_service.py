"""The trainer's service with real runs on a tiny model."""

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ed2.app.run_view import RunView
from ed2.app.runs.records import find_run, find_runs
from ed2.app.service import TrainerService
from ed2.app.snapshot import RunSnapshot
from ed2.checkpoint.run_lock import only_trainer
from ed2.errors import RefusedError, SettingsError
from ed2.events import PhaseChanged, SavingChanged
from ed2.training.controls import Controls
from tests.elsewhere import trained_elsewhere
from tests.runs import Values, differing


@pytest.fixture
def values(values: Values, tmp_path: Path) -> Values:
    return {
        **values,
        "log_step": 2,
        "sample_prompts": str(tmp_path / "prompts.json"),
        "sample_steps": 1000,
        "no_save_ckpt": True,
    }


def draw_one(values: Values) -> None:
    """Have a prompt drawn: in most tests it would only take time."""
    prompts = {"num_inference_steps": 2, "samples": [{"prompt": "a cat"}]}
    Path(str(values["sample_prompts"])).write_text(json.dumps(prompts))


def wait_for(service: TrainerService, is_so: Callable[[RunSnapshot], bool], seconds: float = 60) -> RunSnapshot:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so(snapshot := service.snapshot()):
            return snapshot
        time.sleep(0.005)
    raise AssertionError(service.snapshot())


def finished(service: TrainerService, values: Values) -> RunSnapshot:
    service.start(values)
    assert service.wait(100)
    return service.snapshot()


def test_a_run_goes_from_idle_to_done_and_is_rebuilt_from_its_folder(service: TrainerService, values: Values) -> None:
    assert service.snapshot().state == "idle"
    draw_one(values)
    shown = finished(service, values)
    assert (shown.state, shown.step, shown.total) == ("done", 10, 10)
    assert shown.checkpoint
    assert [point.step for point in shown.curves["loss/log_step"].points] == [1, 2, 4, 6, 8, 10]
    assert {sample.step for sample in shown.samples} == {0, 10}
    assert any("saved last-tiny" in line for line in shown.log)
    assert not shown.is_saving
    rebuilt_from_the_folder(shown, values)


def rebuilt_from_the_folder(shown: RunSnapshot, values: Values) -> None:
    other = TrainerService()
    other.show_last_run(Path(str(values["logdir"])))
    rebuilt = other.snapshot()
    other.close()
    for name in ("state", "step", "total", "epoch", "curves", "samples", "loss", "lr", "checkpoint", "project"):
        assert getattr(rebuilt, name) == getattr(shown, name), name
    assert rebuilt.log[-1] == shown.log[-1]


def test_a_killed_run_shows_as_interrupted(service: TrainerService, values: Values) -> None:
    run_dir = finished(service, values).run_dir
    assert run_dir
    assert [run.state for run in find_runs(run_dir.parent)] == ["done"]
    events = run_dir / "events.jsonl"
    events.write_text("\n".join(events.read_text().split("\n")[:6]))
    service.show_last_run(run_dir.parent)
    assert (service.snapshot().state, service.snapshot().detail) == (
        "stopped",
        "the program exited during the run: resume it from step 10 in the Resume tab",
    )
    assert [run.state for run in find_runs(run_dir.parent)] == ["interrupted"]
    assert find_run(run_dir.parent, run_dir.name, run_dir).state == "running"
    assert find_run(run_dir.parent, f"../{run_dir.parent.name}/{run_dir.name}") is None


def test_resuming_right_at_the_end_waits_until_the_previous_run_releases_its_lock(
    service: TrainerService, values: Values
) -> None:
    run_dir = finished(service, values).run_dir
    assert run_dir
    is_held = threading.Event()

    def hold() -> None:
        with only_trainer(run_dir):
            is_held.set()
            time.sleep(1)

    service._thread = threading.Thread(target=hold)
    service._thread.start()
    is_held.wait()
    shown = finished(service, {**values, "resume_ckpt": str(run_dir), "max_epochs": 3})
    assert (shown.state, shown.step) == ("done", 15)


def test_a_run_of_another_program_is_shown_as_running_there(service: TrainerService, values: Values) -> None:
    run_dir = finished(service, values).run_dir
    assert run_dir
    with trained_elsewhere(run_dir) as pid:
        service.show_last_run(run_dir.parent)
        shown, (record,) = service.snapshot(), find_runs(run_dir.parent)
    where = f"another program (process {pid})"
    assert (shown.state, shown.detail) == ("idle", f"the run is being trained in {where}")
    assert record.state == "running" and record.trainer and record.trainer.name == where
    assert [(run.state, run.trainer) for run in find_runs(run_dir.parent)] == [("done", None)]


def test_two_starts_at_once_make_one_run(service: TrainerService, values: Values) -> None:
    refused = []

    def start() -> None:
        try:
            service.start(values)
        except RefusedError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    service.wait()
    assert len(list(Path(str(values["logdir"])).iterdir())) == 1


def test_a_paused_run_can_save_and_sample_and_resumes_to_the_same_bytes(
    service: TrainerService, values: Values
) -> None:
    straight = finished(service, values).checkpoint
    service.start(values)
    wait_for(service, lambda s: s.state == "training" and s.step >= 2)
    service.pause()
    paused = wait_for(service, lambda s: s.state == "paused")
    draw_one(values)
    service.save_now()
    service.sample_now()
    shown = wait_for(service, lambda s: s.checkpoint is not None and any(x.step == s.step for x in s.samples))
    assert shown.step == paused.step
    wait_for(service, lambda s: s.state == "paused")
    service.resume()
    service.wait()
    checkpoint = service.snapshot().checkpoint
    assert straight and checkpoint and not differing(straight, checkpoint)


def test_stop_saves_and_a_start_continues_to_the_same_bytes(service: TrainerService, values: Values) -> None:
    straight = finished(service, values).checkpoint
    service.start(values)
    wait_for(service, lambda s: s.step >= 3)
    service.stop()
    assert service.snapshot().state == "stopping"
    service.wait()
    stopped = service.snapshot()
    assert stopped.state == "stopped"
    assert stopped.checkpoint and stopped.checkpoint.name.startswith("interrupted-")
    continued = finished(service, {"resume_ckpt": str(stopped.run_dir), "logdir": values["logdir"]})
    assert continued.run_dir == stopped.run_dir
    assert [point.step for point in continued.curves["loss/log_step"].points][:3] == [1, 2, 4]
    assert straight and continued.checkpoint and not differing(straight, continued.checkpoint)


def test_stopping_without_saving_writes_no_checkpoint(service: TrainerService, values: Values) -> None:
    service.start(values)
    wait_for(service, lambda s: s.step >= 2)
    service.stop_without_saving()
    service.wait()
    shown = service.snapshot()
    assert (shown.state, shown.checkpoint, shown.detail) == ("stopped", None, "not saved at its end")
    assert shown.run_dir
    assert not list((shown.run_dir / "ckpts").iterdir())


def test_a_run_that_ends_while_stop_is_pressed_is_shown_as_ended(
    service: TrainerService, values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Controls.stop

    def stop_and_wait(controls: Controls, signal_number: int = 0, *, save: bool = True) -> None:
        stop(controls, signal_number, save=save)
        assert service.wait(60)

    monkeypatch.setattr(Controls, "stop", stop_and_wait)
    service.start(values)
    wait_for(service, lambda s: s.state == "training" and s.step >= 1)
    service.stop()
    assert service.snapshot().state == "stopped"


def test_a_run_can_be_stopped_while_preparing_and_while_paused(service: TrainerService, values: Values) -> None:
    service.start(values)
    service.stop()
    assert service.wait(60)
    assert service.snapshot().state == "stopped"
    service.start(values)
    wait_for(service, lambda s: s.state == "training" and s.step >= 1)
    service.pause()
    wait_for(service, lambda s: s.state == "paused")
    service.stop()
    assert service.wait(30)
    assert service.snapshot().state == "stopped"


def test_save_now_and_sample_now_say_when_it_will_happen() -> None:
    view = RunView()
    service = TrainerService(view)
    view(PhaseChanged(0, "preparing", ""))
    view(PhaseChanged(3, "sampling", "2 prompts"))
    service.save_now()
    assert service.snapshot().asked == "saving after these samples"
    view(PhaseChanged(3, "training"))
    assert service.snapshot().asked == "saving after these samples"
    view(SavingChanged(3, True))
    assert service.snapshot().asked == ""
    service.sample_now()
    assert service.snapshot().asked == "sampling after this step"
    service.pause()
    service.save_now()
    assert service.snapshot().asked == "pausing after this step"
    service.close()


def test_illegal_commands_are_refused_with_a_message(service: TrainerService) -> None:
    for command in (service.pause, service.resume, service.stop, service.save_now, service.sample_now):
        with pytest.raises(RefusedError, match="the trainer is idle"):
            command()


def test_all_problems_are_reported_at_once_and_nothing_is_started(service: TrainerService, values: Values) -> None:
    wrong = {**values, "batch_size": 0, "resume_ckpt": "/nowhere", "data_root": ["/not here"], "project_name": "a/b"}
    with pytest.raises(SettingsError):
        service.start(wrong)
    shown = service.snapshot()
    assert shown.state == "idle"
    assert {p.path for p in shown.problems} == {"batch_size", "resume_ckpt", "data_root", "project_name"}
    assert not Path(str(values["logdir"])).exists()


def test_an_empty_folder_fails_with_the_reason(service: TrainerService, values: Values, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shown = finished(service, {**values, "data_root": [str(tmp_path / "empty")]})
    assert shown.state == "failed"
    assert any("empty" in str(problem) for problem in shown.problems)


def test_a_finished_run_says_so(service: TrainerService, values: Values) -> None:
    run_dir = finished(service, values).run_dir
    shown = finished(service, {"resume_ckpt": str(run_dir), "logdir": values["logdir"]})
    assert [problem.path for problem in shown.problems] == ["max_epochs"]


def test_an_unchanged_run_keeps_its_revision(service: TrainerService, values: Values) -> None:
    finished(service, values)
    before = service.snapshot()
    time.sleep(0.2)
    after = service.snapshot()
    assert {k: v for k, v in before.revisions.items() if k != "memory"} == {
        k: v for k, v in after.revisions.items() if k != "memory"
    }


def test_memory_of_the_computer_is_read(service: TrainerService) -> None:
    shown = wait_for(service, lambda s: s.memory is not None)
    assert shown.memory
    assert 0 < shown.memory.pc.own <= shown.memory.pc.total


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_a_thousand_random_commands_leave_the_bytes_of_an_undisturbed_run(
    service: TrainerService, values: Values
) -> None:
    values = {**values, "max_epochs": 8, "flip_p": 0.5}
    straight = finished(service, values).checkpoint
    chance = random.Random(7)
    commands = [service.pause, service.resume, service.resume, service.sample_now, service.snapshot]
    service.start(values)
    sent = stops = 0
    while sent < 1000 or service.snapshot().state != "done":
        sent += 1
        command = service.stop if stops < 4 and sent % 150 == 149 else chance.choice(commands)
        try:
            command()
        except RefusedError:
            pass
        else:
            stops += command == service.stop
        if sent > 1000:
            with contextlib.suppress(RefusedError):
                service.resume()
        assert service.snapshot().state != "failed", service.snapshot().detail
        if service.snapshot().state == "stopped":
            stopped = service.snapshot()
            again = {"resume_ckpt": str(stopped.run_dir), "logdir": values["logdir"]}
            service.start(again if stopped.checkpoint else values)
        time.sleep(0.01)
    service.wait()
    disturbed = service.snapshot().checkpoint
    assert stops
    assert straight and disturbed and not differing(straight, disturbed)
