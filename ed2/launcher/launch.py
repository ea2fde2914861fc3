"""The words of launch.sh and launch.bat: `.venv` is made and filled first, then the word is run.

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

if __name__ == "__main__":  # Python is started with -I, which leaves the program's folder out
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ed2.launcher.environment import COMMAND, ROOT, LaunchError, in_venv, make_venv, require_python, say, venv_python
from ed2.launcher.install import add, install
from ed2.terminal import exit_with

if TYPE_CHECKING:
    from collections.abc import Sequence


class Word(NamedTuple):
    """A command: the file that does it, from the program's folder, and the options put before the user's own."""

    help: str
    script: str
    options: tuple[str, ...] = ()
    preset: str = ""

    def is_built(self) -> bool:
        """Whether this version of the program has it."""
        return all((ROOT / name).is_file() for name in (self.script, self.preset or self.script))

    def command(self) -> list[str]:
        """The program and its options; paths are absolute, because it starts where the user stands."""
        preset = ["--config", str(ROOT / self.preset)] if self.preset else []
        return [sys.executable, str(ROOT / self.script), *preset, *self.options]


WORDS = {
    "webui": Word("open the trainer in the browser (also without a word)", "webui.py"),
    "train": Word("train without a browser; train --help lists the options", "train.py"),
    "demo": Word("a small training run that shows that everything works", "train.py", preset="presets/demo.json"),
    "check": Word("look at images and settings, and say what a run would do", "train.py", ("--check",)),
    "test": Word("check the program itself: linters and tests", "scripts/check"),
    "add": Word("install an optional part: add xformers | prodigy | schedulefree", "pyproject.toml"),
    "doctor": Word("what this computer has, what is wrong, and what to do", "ed2/launcher/doctor.py"),
}


def usage() -> str:
    """The words that this version has."""
    lines = [f"  {name:<8}{word.help}" for name, word in WORDS.items() if word.is_built()]
    return "\n".join([f"usage: {COMMAND} [word] [options]", "", *lines])


def chosen_word(argv: Sequence[str]) -> str | None:
    """The word that is meant; None where only the usage can be shown, with what is wrong printed before it."""
    first = argv[0] if argv else "webui"
    if first.startswith("-"):
        first = "webui"
    built = [name for name, word in WORDS.items() if word.is_built()]
    if first in built:
        return first
    if argv:
        near = difflib.get_close_matches(first, built, n=1)
        known = f"'{argv[0]}' is no word of this version"
        say(f"{known}; did you mean '{near[0]}'?" if near else f"{known}.", "")
    return None


def run(command: Sequence[str]) -> int:
    """Start a program where the user stands and give back its exit code; on Linux and macOS it takes our place.

    Ctrl-C is the program's: it saves and ends by itself, and we wait for it.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    environment["PYTHONUTF8"] = "1"
    sys.stderr.flush()
    if os.name != "nt":
        os.execve(command[0], list(command), environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return subprocess.call(command, env=environment)


def doctor() -> int:
    """Install what is missing, and report in any case."""
    from ed2.launcher.doctor import report

    try:
        install()
    except LaunchError as error:
        return report(error)
    return report()


def launch(argv: Sequence[str]) -> int:
    """Run the word in `argv` and give back its exit code. Raises LaunchError."""
    if argv[:1] in (["-h"], ["--help"]):
        print(usage())
        return 0
    name = chosen_word(argv)
    if name is None:
        print(usage(), file=sys.stderr if argv else sys.stdout)
        return 2 if argv else 0
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
    return run([*WORDS[name].command(), *rest])


def main(argv: Sequence[str]) -> int:
    """`launch`, with what goes wrong told in words."""
    try:
        return launch(argv)
    except LaunchError as error:
        say("", f"ERROR: {error}", *(f"  {hint}" for hint in error.hints))
        return 1
    except KeyboardInterrupt:
        say("", "Stopped. Start again to go on from here.")
        return 130


if __name__ == "__main__":
    exit_with(main)
