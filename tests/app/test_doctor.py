"""What `python -m ed2 doctor` tries on this computer, and what it says where something does not work."""

import json
import sys
from pathlib import Path

import pytest

from ed2.app.doctor import COMMAND, Findings, try_adam, try_attention, try_disk, try_training


def test_what_works_is_said_with_the_device() -> None:
    found = Findings()
    try_attention(found)
    try_adam(found)
    try_disk(found, written_mb=4)
    assert set(found.facts) >= {"attention", "8-bit Adam", "disk"}
    assert all("works on" in found.facts[name] for name in ("attention", "8-bit Adam"))
    assert found.facts["disk"].startswith("writes ")
    assert not [line for line in found.problems if "does not work" in line]


def test_the_demo_is_trained_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    found = Findings()
    try_training(found)
    assert found.facts["training"].startswith("works: 6 steps of the demo")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_bitsandbytes_is_explained_with_another_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    found = Findings()
    try_adam(found)
    assert found.facts["8-bit Adam"] == "does not work"
    assert "bitsandbytes" in found.problems[0] and "--optimizer adamw" in found.problems[1]


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    found = Findings()
    try_disk(found, tmp_path / "gone", written_mb=1)
    assert "No such file" in found.problems[0] and "Move the program" in found.problems[1]


def test_the_command_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMAND.run(["--fast", "now"]) == 2
    told = capsys.readouterr().err
    assert "--fast: there is no such flag" in told and "now: this is not expected here" in told
    assert COMMAND.run(["--help"]) == 0


@pytest.mark.slow
def test_the_launcher_gets_facts_and_problems_as_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    code = COMMAND.run(["--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found["facts"]) >= {"attention", "8-bit Adam", "training", "disk"}
    assert code == int(bool(found["problems"]))
