"""The folder `.venv`: made once, never used half-made, locked by one start at a time. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ed2.terminal import LAUNCHER

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
PARTIAL = VENV / ".partial"  # exists while the environment is being made


class LaunchError(Exception):
    """What went wrong; `hints` holds lines on what to do about it."""

    def __init__(self, what: str, *hints: str) -> None:
        super().__init__(what)
        self.hints = hints


def say(*lines: str) -> None:
    """Print to stderr, since stdout belongs to the program that is started."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def venv_python() -> Path:
    """The Python of `.venv`, whether it exists or not."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def program_environment() -> dict[str, str]:
    """The environment for a program of `.venv`: Python uses its own modules, and keeps what it has compiled."""
    others = ("PYTHONHOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if name not in others}


def in_venv() -> bool:
    """Whether this is the Python of a finished `.venv`."""
    return VENV.is_dir() and Path(sys.prefix).samefile(VENV) and not PARTIAL.exists()


def require_python() -> None:
    """Raise LaunchError if this Python is too old or too new."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        version = sys.version.split()[0]
        fix = f"Start with {LAUNCHER}, which looks for a suitable Python."
        if Path(sys.prefix) == VENV:
            fix = f"Delete {VENV} and start again."
        raise LaunchError(f"Python 3.11 to 3.14 is needed, but {sys.prefix} has {version}", fix)


def runs(*command: str | Path) -> bool:
    """Whether the command starts and exits with 0."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def try_lock(file: IO[str]) -> bool:
    """Lock `file` until it is closed; False if another process holds the lock."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextmanager
def locked() -> Iterator[None]:
    """Lock `.venv` for this process, so that two starts install one after the other."""
    try:
        VENV.mkdir(exist_ok=True)
        file = (VENV / ".lock").open("a")
    except OSError as error:
        fix = "Move the program to a folder that you can write to."
        raise LaunchError(f"cannot write to {VENV}: {error.strerror}", fix) from error
    with file:
        if not try_lock(file):
            say("Another start is installing; waiting for it to finish.")
            while not try_lock(file):
                time.sleep(0.2)
        yield


def make_venv() -> None:
    """Make `.venv` from this Python. Until it is complete it holds `.partial`, so a half-made one is made again."""
    with locked():
        if not PARTIAL.exists() and runs(venv_python(), "-I", "-c", ""):
            return  # the start that this one waited for has made it
        clear_venv()
        say(f"Creating the Python environment (Python {sys.version.split()[0]}) in {VENV} ...")
        PARTIAL.touch()
        if subprocess.call([sys.executable, "-I", "-m", "venv", str(VENV)], stdout=sys.stderr):
            raise LaunchError(
                f"could not create the Python environment with {sys.executable}",
                "Debian and Ubuntu: sudo apt install python3-venv, then start again.",
                "Other systems: see the message above. Often the disk is full, or the folder belongs to another user.",
            )
        PARTIAL.unlink()


def clear_venv() -> None:
    """Empty `.venv` except for the lock. Raises LaunchError if the folder is something else."""
    content = [path for path in VENV.iterdir() if path.name != ".lock"]
    if content and not any(path.name in ("pyvenv.cfg", ".partial") for path in content):
        raise LaunchError(f"{VENV} is not a Python environment", "Rename or delete that folder and start again.")
    for path in sorted(content, key=lambda path: path.name == ".partial"):  # .partial goes last
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
