"""`on_end`: a command or an address that is told how a run ended, and that no file, form or run can name."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import ed2.app.on_end
from ed2.app.checks.start_checks import require_valid, start_problems
from ed2.app.command import main
from ed2.app.on_end import FILE_NAME, OnEnd, split_command
from ed2.app.queue.command import main as queue_main
from ed2.app.queue.store import RunQueue
from ed2.app.service import TrainerService
from ed2.app.user_files import UserFiles
from ed2.errors import CheckpointError, FinishedError, SettingsError, StopRequested
from ed2.events import Event, EventBus, RunEnded, RunStarted, Warned
from ed2.settings import cli
from ed2.settings.fields import fields
from ed2.ui.command import main as page_main
from ed2.ui.context import Context
from tests.runs import Values, train

TELL = """
import json, os, sys
told = {name: value for name, value in os.environ.items() if name.startswith("ED2_")}
with open(sys.argv[1], "a") as file:
    file.write(json.dumps(told) + "\\n")
"""
ENDED = RunEnded(7, "stopped", "stopped and saved", 12.0)
SECRET = "s3cret-key"


class Told:
    """A command that writes down what it is told."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / f"told {SECRET}.jsonl"
        (folder / "tell.py").write_text(TELL)
        self.command = f"'{sys.executable}' '{folder / 'tell.py'}' '{self.file}'"

    def lines(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


@pytest.fixture
def values(values: Values) -> Values:
    return {**values, "max_epochs": 1, "no_save_ckpt": True}


def started(run_dir: Path) -> RunStarted:
    return RunStarted(0, "demo", run_dir, 10, 0, 1, 5, "cpu", {})


def follow(on_end: OnEnd, *events: Event, error: Exception | None = None) -> list[Event]:
    """What an observer sees of a run with these events, whose end is told."""
    seen: list[Event] = []
    bus = EventBus([seen.append])
    with on_end.following(bus):
        for event in events:
            bus.emit(event)
        if error:
            raise error
    return seen


def warning(on_end: OnEnd, run_dir: Path) -> str:
    """The one warning, which is last and stands in the run's log too."""
    seen = follow(on_end, started(run_dir), ENDED)
    assert [type(event) for event in seen] == [RunStarted, RunEnded, Warned]
    assert isinstance(seen[-1], Warned)
    log = (run_dir / "run.log").read_text()
    assert seen[-1].text in log and log.count(" WARNING ") == 1
    assert SECRET not in log
    return seen[-1].text


@pytest.mark.skipif(sys.platform == "win32", reason="quotes as on POSIX")
def test_a_command_is_told_the_outcome_without_a_shell(told: Told, run_dir: Path) -> None:
    seen = follow(OnEnd(f"{told.command} $HOME ; touch x"), started(run_dir), ENDED)
    assert seen == [started(run_dir), ENDED], "a success says nothing"
    outcome = {"ED2_STATE": "stopped", "ED2_RUN": str(run_dir), "ED2_STEP": "7", "ED2_TEXT": "stopped and saved"}
    assert told.lines() == [outcome]
    assert not Path("x").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="quotes as on POSIX")
def test_its_environment_is_that_of_the_user(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ED2_OF_THE_USER", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    on_end = OnEnd(told.command)
    assert "WORLD_SIZE" not in on_end.environment, "it may start a run of its own"
    monkeypatch.setenv("ED2_SET_LATER", "1")
    follow(on_end, ENDED)
    assert told.lines()[0].keys() == {"ED2_OF_THE_USER", "ED2_STATE", "ED2_RUN", "ED2_STEP", "ED2_TEXT"}


class Hook(BaseHTTPRequestHandler):
    """Answers 404, a redirect or 200, as the path says, and remembers what was posted."""

    posted: list[tuple[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).posted.append((self.headers["Content-Type"], json.loads(body)))
        self.send_response({"/gone": 404, "/moved": 302}.get(self.path.split("?")[0], 200))
        self.send_header("Location", "/ok")
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Hook.posted = []
    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_address_gets_the_outcome_as_json_without_a_path(hook: str, run_dir: Path) -> None:
    assert follow(OnEnd(f"{hook}/x?key={SECRET}"), started(run_dir), ENDED)[-1] == ENDED
    outcome = {"state": "stopped", "run": run_dir.name, "step": 7, "text": "stopped and saved"}
    assert Hook.posted == [("application/json", outcome)]


def test_an_address_that_refuses_redirects_or_is_gone_is_a_warning(hook: str, run_dir: Path) -> None:
    assert "HTTP status 404. Check" in warning(OnEnd(f"{hook}/gone?key={SECRET}"), run_dir)
    (run_dir / "run.log").unlink()
    assert "HTTP status 302" in warning(OnEnd(f"{hook}/moved?key={SECRET}"), run_dir)
    assert len(Hook.posted) == 2, "a redirect is not followed"
    (run_dir / "run.log").unlink()
    assert "cannot be reached" in warning(OnEnd(f"http://127.0.0.1:9/{SECRET}"), run_dir)
    (run_dir / "run.log").unlink()
    assert "cannot be reached" in warning(OnEnd(f"http://{SECRET}.invalid/"), run_dir)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit(3)", "exited with code 3"),
        ("import time; time.sleep(60)", "took longer than 0.5 seconds and was ended"),
    ],
)
def test_a_command_that_fails_or_hangs_is_a_warning(
    code: str, words: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ed2.app.on_end, "SECONDS", 0.5 if "sleep" in code else 60)
    assert words in warning(OnEnd(f'"{sys.executable}" -c "{code}" {SECRET}'), run_dir)


@pytest.mark.skipif(sys.platform == "win32", reason="there any file may be a program")
def test_a_file_that_is_no_program_is_a_warning(tmp_path: Path, run_dir: Path) -> None:
    program = tmp_path / SECRET
    program.write_bytes(b"\0\0")
    program.chmod(0o755)
    assert "cannot be started" in warning(OnEnd(f"'{program}'"), run_dir)


@pytest.mark.skipif(sys.platform == "win32", reason="quotes as on POSIX")
def test_a_run_that_fails_to_start_is_told_and_one_with_nothing_to_do_is_not(told: Told) -> None:
    for error in (StopRequested(), FinishedError("done", [])):
        with pytest.raises(type(error)):
            follow(OnEnd(told.command), error=error)
    assert told.lines() == []
    with pytest.raises(CheckpointError):
        follow(OnEnd(told.command), error=CheckpointError("It is damaged", "of a reason", "Use another."))
    with pytest.raises(ValueError):
        follow(OnEnd(told.command), error=ValueError("odd\0"))
    assert [line["ED2_STATE"] for line in told.lines()] == ["failed", "failed"]
    assert "damaged" in told.lines()[0]["ED2_TEXT"] and told.lines()[1]["ED2_TEXT"].startswith("ValueError: odd")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("'unclosed", "not closed"),
        (f"no-such-program {SECRET}", "not on this computer"),
        ("http://", "not valid"),
        ("https://a b", "not valid"),
        ("http://user:word@host/", "not valid"),
        ("http://host:99999/", "not valid"),
        ("http://h\u00f6st/", "not valid"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"--on_end.*{words}") as refused:
        OnEnd(text).require_valid()
    assert SECRET not in str(refused.value)
    (tmp_path / FILE_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=f"user/{FILE_NAME}.*{words}"):
        OnEnd(folder=tmp_path).require_valid()


@pytest.mark.skipif(sys.platform == "win32", reason="quotes as on POSIX")
def test_the_file_is_read_when_a_run_ends_and_the_command_line_wins(told: Told, tmp_path: Path, run_dir: Path) -> None:
    on_end = OnEnd(folder=tmp_path).require_valid()
    follow(on_end, ENDED)
    (tmp_path / FILE_NAME).write_text(f"\ufeff{told.command}\n", encoding="utf-8")
    follow(on_end, ENDED)
    follow(OnEnd("", folder=tmp_path), ENDED)
    assert len(told.lines()) == 1
    (tmp_path / FILE_NAME).write_text(f"{told.command}\n{SECRET}")
    assert "more than one line" in warning(on_end, run_dir)
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SettingsError, match="it is not UTF-8"):
        on_end.require_valid()


def test_the_page_takes_it_at_its_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert page_main(["--no_browser", "--on_end", f"no-such-program {SECRET}"]) == 2
    told = capsys.readouterr().err
    assert "not on this computer" in told and SECRET not in told


def test_a_command_of_windows_keeps_its_backslashes() -> None:
    words = split_command(r'"C:\My Tools\tell.exe" C:\runs "a b"', on_windows=True)
    assert words == [r"C:\My Tools\tell.exe", r"C:\runs", "a b"]


def test_no_file_or_form_can_name_it(values: Values, tmp_path: Path) -> None:
    assert "on_end" not in fields()
    for value in ("touch x", "http://example.com/", ["touch", "x"], "", 1):
        named = {**values, "on_end": value}
        assert [problem.path for problem in start_problems(named)] == ["on_end"]
        preset = tmp_path / "preset.json"
        preset.write_text(json.dumps(named))
        with pytest.raises(SettingsError, match=r"on_end: it cannot come from a file or a form.*user/on_end\.conf"):
            require_valid(cli.parse(["--config", str(preset)]))


def test_a_manifest_that_names_it_trains_and_runs_nothing(values: Values, tmp_path: Path) -> None:
    command = f"touch {tmp_path / SECRET}"
    entry = {"image": str(Path(str(values["data_root"][0])) / "00.png"), "caption": "a cat", "on_end": command}
    manifest = tmp_path / "listed" / "images.json"
    manifest.parent.mkdir()
    manifest.write_text(json.dumps([entry]))
    with pytest.raises(SettingsError, match="cannot come from a file or a form"):
        train({**values, "on_end": command})
    trained = train({**values, "data_root": [str(manifest)], "no_save_ckpt": False}, stop_at=1)
    (trained.run_dir / "manifest.json").write_text(json.dumps({"on_end": command}))
    service = TrainerService(on_end=OnEnd(folder=tmp_path / "user"))
    service.start({"resume_ckpt": str(trained.run_dir), "logdir": values["logdir"], "max_epochs": 2})
    service.wait()
    service.close()
    assert service.snapshot().state == "done"
    assert not (tmp_path / SECRET).exists()


def test_a_draft_that_names_it_is_refused(values: Values, tmp_path: Path) -> None:
    user = UserFiles(tmp_path / "user")
    user.keep_draft({**values, "on_end": f"touch {SECRET}"})
    context = Context(user=user)
    with pytest.raises(SettingsError, match="cannot come from a file or a form"):
        context.start(context.form_values())
    context.service.close()
    assert not Path(SECRET).exists()


def test_a_run_that_names_it_is_resumed_without_it(values: Values, tmp_path: Path) -> None:
    trained = train({**values, "no_save_ckpt": False}, stop_at=2)
    file = trained.run_dir / "settings.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "on_end": f"touch {tmp_path / SECRET}"}))
    resumed = train({"resume_ckpt": str(trained.run_dir), "logdir": values["logdir"]})
    assert any("on_end: it cannot come from a file" in note for note in resumed.of(RunStarted)[0].notes)
    assert not (tmp_path / SECRET).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="quotes as on POSIX")
def test_a_run_of_the_terminal_tells_it_and_no_file_of_the_run_holds_it(
    values: Values, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = tmp_path / "preset.json"
    preset.write_text(json.dumps(values))
    for name in ("HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # the program sets them; back afterwards
    assert main(["--config", str(preset), "--on_end", told.command]) == 0
    (line,) = told.lines()
    (run_dir,) = (tmp_path / "logs").iterdir()
    assert (line["ED2_STATE"], line["ED2_RUN"], line["ED2_STEP"]) == ("done", str(run_dir), "5")
    held = [file for file in run_dir.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert held == []
    assert main(["--config", str(preset), "--on_end", f'"{sys.executable}" -c "raise SystemExit(4)"']) == 0
    assert any("exited with code 4" in log.read_text() for log in (tmp_path / "logs").glob("*/run.log"))


@pytest.mark.skipif(sys.platform == "win32", reason="quotes as on POSIX")
def test_each_run_of_the_queue_and_one_that_cannot_start_are_told(values: Values, told: Told, tmp_path: Path) -> None:
    queue = RunQueue(tmp_path / "queue")
    queue.add({**values, "resume_ckpt": str(tmp_path / "gone")})
    queue.add(values)
    service = TrainerService(on_end=OnEnd(told.command))
    service.run_queue(queue)
    service.wait()
    service.close()
    assert [run.state for run in queue.runs()] == ["failed", "done"]
    assert [line["ED2_STATE"] for line in told.lines()] == ["failed", "done"]
    for file in queue.folder.glob("*"):
        assert SECRET.encode() not in file.read_bytes()


def test_the_program_that_runs_the_queue_takes_it_and_a_queued_run_does_not(
    values: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--queue", str(tmp_path / "queue")]
    preset = tmp_path / "preset.json"
    preset.write_text(json.dumps(values))
    assert queue_main([*place, "add", "--config", str(preset), "--on_end", "x"]) == 2
    assert "no run keeps it" in capsys.readouterr().err
    assert queue_main([*place, "run", "--on_end", "no-such-program"]) == 2
    assert "not on this computer" in capsys.readouterr().err
    assert queue_main([*place, "run", "--on_end"]) == 2
    assert queue_main([*place, "run", "--on_end=http://127.0.0.1:9/"]) == 0
