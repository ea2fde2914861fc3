"""A program that this one starts ends with it, even where this one is killed: the pipe that it holds then ends."""

import subprocess
import sys
from pathlib import Path

from ed2.settings.files import PROGRAM_DIR


def test_tensorboard_exits_with_its_parents_pipe(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ed2.app.page.tensorboard", "--logdir", str(tmp_path), "--port", "0"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    program = subprocess.Popen(command, cwd=PROGRAM_DIR, stdin=subprocess.PIPE, **quiet)
    program.communicate(timeout=100)  # closes the pipe; without that TensorBoard serves on and on
    assert program.returncode == 1
