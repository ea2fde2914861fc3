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

import ed2
from ed2.launcher.environment import (
    COMMAND,
    ROOT,
    VENV,
    LaunchError,
    in_venv,
    make_venv,
    require_python,
    say,
    venv_python,
)
from ed2.launcher.install import (
    Gpu,
    Torch,
    add,
    free_disk_gb,
    install,
    installed_torch,
    is_installed,
    nvidia_gpus,
    unused_gpu,
)
from ed2.terminal import exit_with

if TYPE_CHECKING:
    from collections.abc import Sequence

LOW_DISK_GB = 20


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
    "doctor": Command("show this computer's setup, and find and explain problems", "ed2/launcher/launch.py"),
}


def usage() -> str:
    """The commands of this version."""
    lines = [f"  {name:<8}{command.help}" for name, command in COMMANDS.items() if command.exists()]
    return "\n".join([f"usage: {COMMAND} [command] [options]", "", *lines])


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
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    environment["PYTHONUTF8"] = "1"
    sys.stderr.flush()
    if os.name != "nt":
        os.execve(argv[0], list(argv), environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return subprocess.call(argv, env=environment)


def doctor() -> int:
    """Install what is missing, then print facts and problems in any case; 1 if there are problems, else 0."""
    problems: list[str] = []
    try:
        install()
    except LaunchError as error:
        problems = [f"Installation failed: {error}", *(f"  {hint}" for hint in error.hints)]
    torch, gpus = installed_torch(), nvidia_gpus()
    for name, fact in system_facts(torch, gpus).items():
        print(f"{name:<11}{fact}")
    problems += [*unused_gpu(torch, gpus), *system_problems()]
    print("", *(problems or [f"No problems found. Start with {COMMAND}."]), sep="\n")
    return int(bool(problems))


def system_facts(torch: Torch | None, gpus: Sequence[Gpu]) -> dict[str, str]:
    """What this computer has, by name."""
    memory_gb = system_memory_gb()
    return {
        "program": f"{ed2.__version__} in {ROOT}",
        "Python": f"{sys.version.split()[0]} ({sys.executable})",
        "packages": "installed" if is_installed() else "incomplete",
        "PyTorch": f"{torch.version} on {torch.device or 'the CPU'}" if torch else "not installed",
        "GPU": "; ".join(f"{gpu.name}, {gpu.memory_gb or 0:.1f} GB" for gpu in gpus) or "no NVIDIA GPU found",
        "driver": gpus[0].driver if gpus else "-",
        "free disk": f"{free_disk_gb(ROOT):.1f} GB",
        "memory": f"{memory_gb:.1f} GB" if memory_gb else "unknown",
    }


def system_problems() -> list[str]:
    """Lines on problems of this Python and this disk, each followed by what to do."""
    problems = []
    if "WindowsApps" in sys.base_prefix:
        problems += [
            "Python comes from the Microsoft Store, which hides files from other programs.",
            f"  Install it from python.org, delete {VENV} and start again.",
        ]
    if free_disk_gb(ROOT) < LOW_DISK_GB:
        problems += [
            "The disk is nearly full: a checkpoint takes 2 to 4 GB.",
            "  Free some space before a long run.",
        ]
    return problems


def system_memory_gb() -> float | None:
    """This computer's memory in GB of 2**30 bytes; None if the system does not say."""
    if sys.platform == "win32":
        import ctypes

        # GlobalMemoryStatusEx fills in two 32-bit fields, then total, free and five more of 64 bits.
        fields = (ctypes.c_uint64 * 8)()
        fields[0] = ctypes.sizeof(fields)
        library = getattr(ctypes, "windll", None)
        if library is None or not library.kernel32.GlobalMemoryStatusEx(ctypes.byref(fields)):
            return None
        return fields[1] / 2**30
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (OSError, ValueError):
        return None


def launch(argv: Sequence[str]) -> int:
    """Run the command in `argv` and return its exit code. Raises LaunchError."""
    if argv[:1] in (["-h"], ["--help"]):
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
