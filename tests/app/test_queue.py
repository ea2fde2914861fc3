"""The queue: what it keeps, in which order it trains, and what it refuses."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ed2.app.queue import command
from ed2.app.queue.store import RunQueue
from ed2.app.service import TrainerService
from ed2.errors import RefusedError, SettingsError
from tests.app.test_service import wait_for
from tests.past_runs import past_run
from tests.runs import Values, differing, train


@pytest.fixture
def values(values: Values) -> Values:
    return {**values, "no_save_ckpt": True}


@pytest.fixture
def queue(tmp_path: Path) -> RunQueue:
    return RunQueue(tmp_path / "user" / "queue")


@pytest.fixture
def service() -> Iterator[TrainerService]:
    service = TrainerService()
    yield service
    service.close()


def states(queue: RunQueue) -> list[tuple[str, str]]:
    return [(run.project, run.state) for run in queue.runs()]


def fill(queue: RunQueue, values: Values, *names: str) -> None:
    for name in names:
        queue.add({**values, "project_name": name})


def test_runs_are_kept_moved_changed_and_removed_across_programs(queue: RunQueue, values: Values) -> None:
    fill(queue, values, "a", "b", "c")
    other = RunQueue(queue.folder)
    other.move(3, 0)
    other.change(1, {**values, "project_name": "first", "max_epochs": 9})
    other.remove(2)
    assert [(run.number, run.project) for run in queue.runs()] == [(3, "c"), (1, "first")]
    assert queue.settings_of(1)["max_epochs"] == 9
    fill(queue, values, "d")
    assert [run.number for run in queue.runs()] == [3, 1, 4], "no number is used twice while a later one is there"
    queue.move(4, -5)
    queue.move(3, 99)
    assert [run.number for run in queue.runs()] == [4, 1, 3]
    with pytest.raises(RefusedError, match="no run 2"):
        queue.remove(2)


def test_several_programs_add_at_once_and_no_run_is_lost(queue: RunQueue, values: Values) -> None:
    threads = [threading.Thread(target=fill, args=(RunQueue(queue.folder), values, "x", "y", "z")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run.number for run in queue.runs()) == list(range(1, 13))


@pytest.mark.parametrize("damage", ["", "[", '[{"number": "x"}]', '{"a": 1}', '[{"number": 1, "state": "evil"}]'])
def test_a_damaged_list_is_made_again_from_the_settings(queue: RunQueue, values: Values, damage: str) -> None:
    fill(queue, values, "a", "b")
    (queue.folder / "queue.json").write_text(damage)
    assert states(queue) == [("a", "waiting"), ("b", "waiting")]
    queue.move(2, 0)
    assert states(RunQueue(queue.folder)) == [("b", "waiting"), ("a", "waiting")]


@pytest.mark.parametrize(
    ("unsafe", "words"),
    [
        ({"on_end": "rm -rf x"}, "on_end"),
        ({"evil": 1}, "no such setting"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_processes": 0}, "num_processes"),
    ],
)
def test_settings_that_may_not_wait_in_a_file_are_refused_when_added_and_when_read(
    queue: RunQueue, values: Values, unsafe: Values, words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        queue.add({**values, **unsafe})
    assert queue.runs() == ()
    run = queue.add(values)
    (queue.folder / "1.json").write_text(json.dumps({**values, **unsafe}))
    with pytest.raises(SettingsError, match=words):
        queue.start_values(run)


def test_a_drawn_seed_is_drawn_once(queue: RunQueue, values: Values) -> None:
    run = queue.add({**values, "seed": -1})
    assert queue.start_values(run)["seed"] == queue.start_values(run)["seed"] != -1


def test_a_run_draws_the_prompts_that_it_was_added_with(queue: RunQueue, values: Values, tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    own = []
    for text in ("[1]", "[2]"):
        file.write_text(text)
        queue.add({**values, "sample_prompts": str(file)})
        own.append(Path(str(queue.settings_of(len(own) + 1)["sample_prompts"])))
    assert [path.read_text() for path in own] == ["[1]", "[2]"]
    queue.change(1, {**values, "sample_prompts": str(file)})
    queue.change(2, queue.settings_of(2))
    assert [path.read_text() for path in own] == ["[2]", "[2]"]
    queue.remove(1)
    assert [path.exists() for path in own] == [False, True]
    queue.began(2, tmp_path)
    queue.ended(2, "done", "")
    queue.remove_done()
    assert queue.add(values).number == 3, "or it would replace the prompts of the run that is done"


def test_runs_that_were_killed_or_stopped_come_first_and_resume(
    queue: RunQueue, values: Values, tmp_path: Path
) -> None:
    fill(queue, values, "a", "b", "c")
    folder = past_run(tmp_path, "stopped", "whole")
    with queue.only_runner():
        assert queue.take().project == "a"
        queue.ended(1, "stopped", "saved")
        queue.move(3, 0)
        killed = queue.take()
        assert killed.project == "a", "the stopped one, before those that wait"
        queue.began(1, folder)
        with pytest.raises(RefusedError, match="it is running"):
            queue.remove(1)
    killed = queue.take()
    assert (killed.project, queue.start_values(killed)["resume_ckpt"]) == ("a", str(folder))
    shutil.rmtree(folder / "ckpts")
    assert queue.start_values(killed)["resume_ckpt"] == values["resume_ckpt"], "from its start, without a checkpoint"
    with pytest.raises(RefusedError, match="it has started"):
        queue.change(1, values)


def test_one_program_runs_it_at_a_time(queue: RunQueue, values: Values, service: TrainerService) -> None:
    fill(queue, values, "a")
    with RunQueue(queue.folder).only_runner():
        assert queue.is_being_run()
        for start in (lambda: service.run_queue(queue), lambda: queue.only_runner().__enter__()):
            with pytest.raises(RefusedError, match="another program"):
                start()
    assert not queue.is_being_run()
    assert states(queue) == [("a", "waiting")]


def test_the_trainer_runs_the_queue_after_the_present_run_and_past_a_failure(
    queue: RunQueue, values: Values, service: TrainerService, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(Path(str(values["data_root"][0])), gone)
    fill(queue, {**values, "data_root": [str(gone)]}, "failing")
    fill(queue, values, "tiny")
    shutil.rmtree(gone)
    service.start({**values, "project_name": "before"})
    service.run_queue(queue)
    assert states(queue)[0] == ("failing", "waiting")
    assert service.wait(100)
    assert states(queue) == [("failing", "failed"), ("tiny", "done")]
    assert "gone" in queue.runs()[0].text
    names = sorted(path.name.rpartition("_")[0] for path in Path(str(values["logdir"])).iterdir())
    assert names == ["before", "tiny"]
    checkpoint = service.snapshot().checkpoint
    assert checkpoint and not differing(train({**values, "project_name": "tiny"}).checkpoint, checkpoint)
    queue.retry(1)
    queue.remove_done()
    assert states(queue) == [("failing", "waiting")]


def test_stop_ends_the_queue_and_its_run_is_continued_first(
    queue: RunQueue, values: Values, service: TrainerService
) -> None:
    alone = train({**values, "project_name": "a"}).checkpoint
    fill(queue, values, "a", "b")
    service.run_queue(queue)
    wait_for(service, lambda shown: shown.step >= 2)
    with pytest.raises(RefusedError):
        service.start(values)
    service.stop()
    assert service.wait(100)
    assert states(queue) == [("a", "stopped"), ("b", "waiting")]
    queue.move(2, 0)
    service.run_queue(queue)
    assert service.wait(100)
    assert states(queue) == [("b", "done"), ("a", "done")]
    folder = Path(next(run.folder for run in queue.runs() if run.project == "a"))
    (last,) = folder.glob("ckpts/last-*")
    assert not differing(alone, last)


def test_the_command_adds_lists_changes_and_runs(
    queue: RunQueue, values: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = tmp_path / "preset.json"
    preset.write_text(json.dumps(values))
    own = ("--queue", str(queue.folder))
    assert command.main([*own, "add", "--config", str(preset), "--project_name", "one", "--max_epochs", "1"]) == 0
    assert command.main([*own, "add", "--config", str(preset), "--batch_size", "0", "--lr", "fast"]) == 2
    assert "2 settings are wrong" in capsys.readouterr().err
    assert command.main([*own, "add", "--config", str(preset), "--project_name", "two"]) == 0
    assert command.main([*own, "edit", "2", "--max_epochs", "1"]) == 0
    assert command.main([*own, "move", "2", "1"]) == 0
    assert command.main([*own, "list"]) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split() for line in lines] == [["2", "waiting", "two"], ["1", "waiting", "one"]]
    assert command.main([*own, "run"]) == 0
    assert "2 runs done, 0 failed." in capsys.readouterr().out
    assert command.main([*own, "clear"]) == 0
    assert queue.runs() == ()
    for wrong in (["evil"], ["remove"], ["remove", "x"], ["move", "1"], ["remove", "7"], ["list", "x"]):
        assert command.main([*own, *wrong]) in (1, 2)
        assert "Traceback" not in capsys.readouterr().err
