"""The commands of launch.sh and launch.bat: make and fill `.venv` if needed, then run the command.

Standard library only, and called by its path, so that it works before anything is installed.
"""

from __future__ import annotations

import difflib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if __name__ == "__main__":  # python -I leaves the program's folder out of the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ed2.launcher.doctor import doctor
from ed2.launcher.environment import (
    ROOT,
    LaunchError,
    in_venv,
    make_venv,
    program_environment,
    require_python,
    say,
    venv_python,
)
from ed2.launcher.install import add, install
from ed2.terminal import LAUNCHER, exit_with

if TYPE_CHECKING:
    from collections.abc import Sequence


class Command(NamedTuple):
    """A command: the script that it runs, from the program's folder, and options put before the user's own."""

    help: str
    script: str
    options: tuple[str, ...] = ()
    preset: str = ""

    def exists(self) -> bool:
        """Whether this version of the program has it."""
        return all((ROOT / name).is_file() for name in (self.script, self.preset or self.script))

    def argv(self) -> list[str]:
        """The program and its options; paths are absolute, since it starts in the user's current folder."""
        preset = ["--config", str(ROOT / self.preset)] if self.preset else []
        return [sys.executable, str(ROOT / self.script), *preset, *self.options]


COMMANDS = {
    "webui": Command("open the trainer in the browser (the default)", "webui.py"),
    "train": Command("train without a browser; train --help lists the options", "train.py"),
    "demo": Command("run a small training to see that everything works", "train.py", preset="presets/demo.json"),
    "check": Command("check images and settings, and show what a run would do", "train.py", ("--check",)),
    "test": Command("check the program itself: linters and tests", "scripts/check"),
    "add": Command("install an optional package: add xformers | prodigy | schedulefree | heif", "pyproject.toml"),
    "doctor": Command("test this computer, repair the installation, explain problems", "ed2/launcher/launch.py"),
}
OF_MODELS = "convert download models extract-lora merge queue report cache".split()
"""Commands of `ed2/__main__.py`, which lists what they do."""
COMMANDS |= {name: Command("", "ed2/__main__.py", (name,)) for name in OF_MODELS}


def usage() -> str:
    """The commands of this version."""
    lines = [f"  {name:<8}{command.help}" for name, command in COMMANDS.items() if command.help and command.exists()]
    if COMMANDS["convert"].exists():
        lines += ["", f"For models and runs: {', '.join(OF_MODELS)}. {LAUNCHER} convert --help explains them."]
    return "\n".join([f"usage: {LAUNCHER} [command] [options]", "", *lines])


def chosen_command(argv: Sequence[str]) -> str | None:
    """The name of the command to run; None if there is none, after printing why."""
    first = "webui"
    if argv and not argv[0].startswith("-"):
        first = argv[0]
    known = [name for name, command in COMMANDS.items() if command.exists()]
    if first in known:
        return first
    if argv:
        message = f"unknown command '{argv[0]}'"
        for near in difflib.get_close_matches(first, known, n=1):
            message += f"; did you mean '{near}'?"
        say(message, "")
    return None


def run(argv: Sequence[str]) -> int:
    """Start a program in the current folder and return its exit code; on Linux and macOS it replaces this process.

    Ctrl-C is left to the program, which saves and exits by itself.
    """
    environment = {**program_environment(), "PYTHONUTF8": "1"}
    sys.stderr.flush()
    if os.name != "nt":
        os.execve(argv[0], list(argv), environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return subprocess.call(argv, env=environment)


def launch(argv: Sequence[str]) -> int:
    """Run the command in `argv` and return its exit code. Raises LaunchError."""
    if argv[:1] in (["-h"], ["--help"], ["help"]):
        print(usage())
        return 0
    name = chosen_command(argv)
    if name is None and argv:
        print(usage(), file=sys.stderr)
        return 2
    if name is None:
        print(usage())
        return 0
    require_python()
    if not in_venv():
        make_venv()
        return run([str(venv_python()), "-I", "-X", "utf8", __file__, *argv])
    if name == "doctor":
        return doctor()
    install(dev=name == "test")
    rest = argv[1:] if argv[:1] == [name] else argv
    if name == "add":
        add(rest)
        return 0
    return run([*COMMANDS[name].argv(), *rest])


def main(argv: Sequence[str]) -> int:
    """`launch`, with errors printed as text."""
    try:
        return launch(argv)
    except LaunchError as error:
        say("", f"ERROR: {error}", *(f"  {hint}" for hint in error.hints))
        return 1
    except KeyboardInterrupt:
        say("", "Stopped. Start again to continue from here.")
        return 130


if __name__ == "__main__":
    exit_with(main)
