"""Programs in a pipe whose reader leaves early, as in `train.py --help | head`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ed2.settings.files import PROGRAM_DIR
from ed2.terminal import READER_LEFT

COMMANDS = {
    "train.py": ["train.py"],
    "train.py --help": ["train.py", "--help"],
    "webui.py --help": ["webui.py", "--help"],
    "python -m ed2": ["-m", "ed2", "--help"],
    "launcher": ["-I", "ed2/launcher/launch.py", "--help"],
}


def run_program(command: list[str], stdout: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=PROGRAM_DIR, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=100
    )


def run_unread(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run Python with a standard output that nobody reads."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        return run_program(command, write_end)
    finally:
        os.close(write_end)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_program_whose_reader_left_ends_silently(name: str) -> None:
    done = run_unread(COMMANDS[name])
    assert done.stderr == ""
    assert done.returncode in (0, READER_LEFT)


def test_check_as_json_whose_reader_left_ends_without_a_traceback(images: Path) -> None:
    done = run_unread(["train.py", "--check", "--json", "--resolution", "64", "--data_root", str(images)])
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.returncode in (0, READER_LEFT)


def test_the_output_of_a_full_disk_is_still_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = run_program(["train.py", "--help"], full.fileno())
    assert done.returncode != 0
    assert "No space left" in done.stderr
