"""Runs of other programs, as the page follows them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ed2.app.runs import records
from ed2.app.runs.records import ExternalRuns
from ed2.app.service import TrainerService
from ed2.app.snapshot import RunSnapshot
from ed2.errors import Problem
from tests.elsewhere import trained_elsewhere
from tests.past_runs import past_run


@pytest.fixture
def service() -> Iterator[TrainerService]:
    service = TrainerService()
    yield service
    service.close()


def drawn_anew(before: RunSnapshot, after: RunSnapshot) -> set[str]:
    """The sections that pages draw anew, without the memory of this computer, which changes by itself."""
    return {name for name, number in after.revisions.items() if number != before.revisions.get(name)} - {"memory"}


def test_a_run_of_another_program_is_followed_from_start_to_end(service: TrainerService, tmp_path: Path) -> None:
    mine, other = past_run(tmp_path, "stopped"), past_run(tmp_path, "done")
    service.show_last_run(tmp_path)
    service.follow(tmp_path)
    service.check_other_programs()
    assert service.snapshot().elsewhere == ""
    with trained_elsewhere(mine) as pid:
        service.check_other_programs()
        shown = service.snapshot()
        assert (shown.state, shown.run_dir, shown.elsewhere) == ("idle", mine, f"another program (process {pid})")
        service.check_other_programs()
        assert drawn_anew(shown, service.snapshot()) == set()
        with (mine / "events.jsonl").open("a") as events:
            events.write('{"event": "MetricsLogged", "time": "2026-01-01T00:00:00+00:00", "step": 11, "values": {}}\n')
        service.check_other_programs()
        assert service.snapshot().step == 11
        assert drawn_anew(shown, service.snapshot()) == {"status", "log"}
        service.show_problems([Problem("lr", "it is wrong.")])
        service.check_other_programs()
        assert [problem.path for problem in service.snapshot().problems] == ["lr"], "of a start here: it stays"
        service.show_problems([])
    service.check_other_programs()
    assert (service.snapshot().state, service.snapshot().run_dir, service.snapshot().elsewhere) == ("stopped", mine, "")
    with trained_elsewhere(other):
        service.check_other_programs()
        assert service.snapshot().run_dir == other


def test_the_runs_folder_may_change_while_a_run_is_followed(service: TrainerService, tmp_path: Path) -> None:
    mine, other = past_run(tmp_path / "mine", "stopped"), past_run(tmp_path / "others", "stopped")
    service.follow(tmp_path / "mine")
    with trained_elsewhere(mine):
        service.check_other_programs()
        service.follow(tmp_path / "others")
        service.check_other_programs()
        assert service.snapshot().run_dir == mine
        assert service.snapshot().elsewhere
        with trained_elsewhere(other):
            service.check_other_programs()
            assert service.snapshot().run_dir == other


def test_a_lock_is_not_retried_until_it_was_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, look, tried = past_run(tmp_path, "done"), ExternalRuns(tmp_path), []
    with trained_elsewhere(run):
        assert look.newest()
    monkeypatch.setattr(records, "other_trainer", tried.append)
    for _ in range(3):
        assert look.newest() is None
    assert tried == [run]
    monkeypatch.undo()
    with trained_elsewhere(run) as pid:
        found = look.newest()
        assert found and found[1].pid == pid
