"""`python webui.py` as a program of its own."""

import argparse
import inspect
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gradio
import httpx
import pytest
from gradio.component_meta import create_or_modify_pyi

from ed2.app.snapshot import RunSnapshot
from ed2.errors import Ed2Error, SettingsError
from ed2.settings.files import PROGRAM_DIR
from ed2.ui.command import (
    PASSWORD_VARIABLE,
    build_parser,
    context_of,
    exit_message,
    login_of,
    main,
    set_password,
    startup_message,
)
from ed2.ui.serving import free_port
from tests.ui.test_proxies import PROXIES, environment
from webui import without_type_stubs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_behind_proxies_a_busy_port_gives_the_next_one_and_a_termination_ends_the_program(tmp_path: Path) -> None:
    behind = environment({**PROXIES["http"], **PROXIES["socks"]})
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        command = [sys.executable, "webui.py", "--port", str(port), "--no_browser", "--logdir", str(tmp_path)]
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        program = subprocess.Popen(command, cwd=PROGRAM_DIR, env={**behind, "PYTHONUNBUFFERED": "1"}, **quiet)
        assert program.stdout
        lines = [program.stdout.readline(), program.stdout.readline()]
        assert lines[0] == f"Port {port} is in use; the page uses another one.\n"
        address = lines[1].removeprefix("Page: ").strip()
        assert httpx.get(address, timeout=30).status_code == 200
        with httpx.stream("GET", f"{address}gradio_api/heartbeat/a-page-that-is-open", timeout=60) as open_page:
            assert open_page.status_code == 200
            began = time.monotonic()
            program.send_signal(signal.SIGTERM)
            program.communicate(timeout=100)
    assert program.returncode == 0
    assert time.monotonic() - began < 30


def test_gradio_writes_no_type_stubs_at_the_start() -> None:
    stub = Path(inspect.getfile(gradio.Button)).with_suffix(".pyi")
    before = stub.stat().st_mtime_ns
    with without_type_stubs():
        create_or_modify_pyi(gradio.Button, "Button", [])
        assert inspect.getfile(Path) == pathlib.__file__, "only Gradio goes without"
    assert stub.stat().st_mtime_ns == before
    assert inspect.getfile(gradio.Button).endswith("button.py")


def test_exiting_prints_what_was_saved_and_how_to_resume_it() -> None:
    shown = RunSnapshot(state="stopped", project="cat", step=1214, detail="stopped and saved")
    begin = "Run cat: stopped at step 1,214 (stopped and saved). "
    assert exit_message(shown) == f"{begin}It has no checkpoint."
    told = exit_message(replace(shown, checkpoint=Path("/logs/cat_1/ckpts/interrupted-cat")))
    assert told.startswith(f"{begin}Saved: /logs/cat_1/ckpts/interrupted-cat. To resume it, open the page again")


def test_a_missing_preset_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", "/nowhere.json", "--no_browser"]) == 2
    assert "/nowhere.json" in capsys.readouterr().err


def test_the_network_always_asks_for_a_password_and_opens_only_the_named_folders(tmp_path: Path) -> None:
    listening = build_parser().parse_args(["--listen", "--data_dirs", str(tmp_path)])
    login = login_of(listening)
    assert login and login[0] == "owner" and len(login[1]) >= 10
    roots = context_of(listening).roots
    assert roots.allow(tmp_path / "x") and not roots.allow(Path("/etc"))
    alone = build_parser().parse_args([])
    assert login_of(alone) is None
    assert context_of(alone).roots.allow(Path("/etc"))
    assert login_of(build_parser().parse_args(["--owner_password", "secret words"])) == ("owner", "secret words")


def test_the_command_line_wins_over_the_draft(tmp_path: Path) -> None:
    options = build_parser().parse_args(["--preset", str(PROGRAM_DIR / "presets/demo.json"), "--logdir", str(tmp_path)])
    values = context_of(options).form_values()
    assert (values["project_name"], values["logdir"]) == ("demo", str(tmp_path))


def test_no_free_port_is_reported() -> None:
    for first, last in ((1, 20), (65530, 65535)):
        with pytest.raises(Ed2Error, match=f"{first} to {last} are all in use"):
            free_port(first, "203.0.113.1")  # an address that this computer does not have


@pytest.mark.parametrize("port", ["99999", "-5", "0", "x"])
def test_an_invalid_port_is_reported(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([f"--port={port}", "--no_browser"])
    assert caught.value.code == 2
    assert f"a port is a whole number from 1 to 65535, not {port}" in capsys.readouterr().err


def test_a_page_on_the_network_says_that_it_opens_no_image_folder() -> None:
    for given, is_said in ((["--listen"], True), (["--listen", "--data_dirs", "/x"], False), ([], False)):
        lines = startup_message(build_parser().parse_args(["--no_browser", *given]), 7860, None)
        assert any("inside the program's own folder" in line for line in lines) is is_said


def options_with(*arguments: str) -> argparse.Namespace:
    options = build_parser().parse_args(["--no_browser", *arguments])
    set_password(options)
    return options


def test_the_password_comes_from_the_environment_which_loses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "from outside")
    assert login_of(options_with()) == ("owner", "from outside")
    assert PASSWORD_VARIABLE not in os.environ
    assert login_of(options_with()) is None


def test_the_password_comes_from_a_file_or_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("secret words\n")
    assert login_of(options_with("--owner_password_file", str(file))) == ("owner", "secret words")
    monkeypatch.setattr("getpass.getpass", lambda prompt: "typed")
    assert login_of(options_with("--owner_password_file", "-")) == ("owner", "typed")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\xff"], ids=("missing", "empty", "no text"))
def test_a_password_file_that_is_unusable_is_reported(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match="owner_password_file"):
        options_with("--owner_password_file", str(file))


def test_a_password_on_the_command_line_works_and_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert login_of(options_with("--owner_password", "secret words")) == ("owner", "secret words")
    told = capsys.readouterr().err
    assert "list of processes" in told and PASSWORD_VARIABLE in told and "secret words" not in told
