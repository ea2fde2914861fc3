"""More than 100 hostile settings files, each read as the program reads it."""

import os
import re
from pathlib import Path

import pytest

from ed2.app.command import main
from ed2.errors import SettingsError
from ed2.settings.files import with_defaults
from ed2.settings.gather import gather
from tests.hostile.cases import Case, write
from tests.hostile.settings import all_settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    place = tmp_path_factory.mktemp("hostile") / "settings"
    return place, write(all_settings(), place)


def told(path: Path) -> str:
    """What is said of a settings file; empty where it is accepted."""
    try:
        with_defaults(gather({}, path).values)
    except SettingsError as error:
        assert error.exit_code == 2 and error.problems
        str(error).encode()  # it can be written to a log
        return str(error)
    return ""


def test_there_are_more_than_100_and_each_is_accepted_or_refused_with_its_reason(
    folder: tuple[Path, list[Case]],
) -> None:
    place, cases = folder
    assert len(cases) > 100
    wrong = {}
    for case in cases:
        said = told(place / case.name)
        if bool(said) != bool(case.expected) or not re.search(case.expected, said):
            wrong[case.name] = f"{said[:300] or 'accepted'} (expected {case.expected or 'accepted'})"
    assert not wrong


def test_no_message_is_too_long_to_read(folder: tuple[Path, list[Case]]) -> None:
    place, cases = folder
    lines = {case.name: max(map(len, told(place / case.name).split("\n"))) for case in cases}
    assert {name: length for name, length in lines.items() if length > 600} == {}
    assert len(told(place / "unknown-many.json").split("\n")) < 60


@pytest.mark.parametrize("name", ["cut-05", "wrong-lr-4", "nul-in-data_root", "unknown-surrogate"])
def test_the_command_ends_with_2_and_without_a_traceback(
    folder: tuple[Path, list[Case]], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check", "--config", str(folder[0] / f"{name}.json")]) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err and said.err.strip()


def test_a_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    for name in (
        "pipe.json",
        "gone.json",
        "folder.json",
        "loop.json",
        "x" * 300 + ".json",
        "a\0b.json",
        "a\ud800b.json",
    ):
        assert "cannot be used" in told(tmp_path / name)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(100 << 20)
    assert "larger than 1 MB" in told(huge)
    assert str(huge) in told(huge)
