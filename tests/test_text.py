"""What others named or wrote cannot act on the terminal, the log or the page."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ed2.app.reporters.log import LogHandler
from ed2.errors import Problem, printable
from ed2.settings.files import PROGRAM_DIR
from ed2.text import as_record, value_text, visible
from ed2.ui.html import escape, on_page
from tests.tiny import make_images

HOSTILE = {
    "OSC": "\x1b]0;owned\x07",
    "clear": "\x1b[2J\x1b[H",
    "return": "all is well\rWARNING",
    "C1": "\x9b31m",
    "right to left": "gnp.\u202egpj",
    "isolate": "\u2066x\u2069",
    "line separator": "a\u2028b",
    "surrogate": "caf\udce9",
    "delete": "a\x7fb",
    "tags": "a\U000e0041",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_control_characters_are_spelled_out_wherever_text_is_shown(text: str, tmp_path: Path) -> None:
    log, record = LogHandler(tmp_path / "run.log"), logging.LogRecord("ed2", logging.INFO, "", 0, "%s", (text,), None)
    log.handle(record)
    assert not log.finish()
    logged = (tmp_path / "run.log").read_text(encoding="utf-8").removesuffix("\n")
    for shown in (visible(text), printable(text), logged, escape(text), on_page(text)):
        assert shown.isprintable(), ascii(shown)
    assert visible(visible(text)) == visible(text)


def test_letters_of_all_languages_stay_as_they_are() -> None:
    for text in ("Ännä – “x” €", "Кошка γάτα", "猫 고양이", "قطة ‏חתול", "🐱‍👤 👩🏽", "tab\tand\nline"):
        assert visible(text) == text


def test_a_line_break_in_a_name_makes_no_message_of_its_own() -> None:
    assert str(Problem("a\n12:00 INFO all is well.png", "it is bad.")).count("\n") == 0
    assert as_record("bad: a\n12:00 INFO done\n  fine") == "bad: a\n  12:00 INFO done\n  fine"
    assert as_record("\x1b[33mA warning\x1b[0m") == "A warning"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_names_of_files_and_settings_reach_the_terminal_spelled_out(tmp_path: Path) -> None:
    make_images(tmp_path / "images", [(96, 96)])
    for text in HOSTILE.values():
        (tmp_path / "images" / f"{text}.png").write_bytes(b"no image")
    settings = tmp_path / "settings.json"
    settings.write_text('{"resolutio\\u001b[2Jn": 1}')
    for options in (["--check", "--data_root", str(tmp_path / "images")], ["--config", str(settings)]):
        done = subprocess.run(
            [sys.executable, "train.py", *options, "--resolution", "64"],
            cwd=PROGRAM_DIR,
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        told = (done.stdout + done.stderr).decode()
        assert "\\x1b" in told
        assert all(letter.isprintable() or letter in "\n\t" for letter in told), ascii(told)


def test_a_value_reads_as_people_write_it() -> None:
    assert list(map(value_text, (True, False, None, 60.0, 1e-6, 768, "cosine"))) == [
        *("on", "off", "empty", "60", "1e-06", "768", "cosine")
    ]
