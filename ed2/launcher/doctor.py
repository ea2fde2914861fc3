"""What this computer has, what is wrong and what to do about it: `launch.sh doctor`. Standard library only."""

from __future__ import annotations

import os
import shutil
import sys
from typing import NamedTuple

from ed2 import __version__
from ed2.launcher.cards import nvidia_cards
from ed2.launcher.environment import COMMAND, ROOT, VENV, LaunchError
from ed2.launcher.install import installed_torch, is_installed, unused_card


class Memory(NamedTuple):
    """Main memory in GB (2**30 bytes)."""

    total_gb: float
    free_gb: float


def main_memory() -> Memory | None:
    """This computer's memory; None where the system does not tell."""
    if sys.platform == "win32":
        return windows_memory()
    try:
        page_gb = os.sysconf("SC_PAGE_SIZE") / 2**30
        pages = os.sysconf("SC_PHYS_PAGES")
        free = os.sysconf("SC_AVPHYS_PAGES") if sys.platform == "linux" else 0
    except (OSError, ValueError):
        return None
    return Memory(pages * page_gb, free * page_gb)


def windows_memory() -> Memory | None:
    """Memory as GlobalMemoryStatusEx tells it: two 32-bit fields, then total, free and five more of 64 bit."""
    import ctypes

    fields = (ctypes.c_uint64 * 8)()
    fields[0] = ctypes.sizeof(fields)
    library = getattr(ctypes, "windll", None)
    if library is None or not library.kernel32.GlobalMemoryStatusEx(ctypes.byref(fields)):
        return None
    return Memory(fields[1] / 2**30, fields[2] / 2**30)


def report(failure: LaunchError | None = None) -> int:
    """Print facts, then problems with what to do. 1 if there are problems, else 0.

    Args:
        failure: what the installation that came before ended with
    """
    torch, cards, memory = installed_torch(), nvidia_cards(), main_memory()
    free_gb = shutil.disk_usage(ROOT).free / 2**30
    facts = {
        "program": f"{__version__} in {ROOT}",
        "Python": f"{sys.version.split()[0]} ({sys.executable})",
        "packages": "installed" if is_installed() else "not complete",
        "PyTorch": f"{torch.version} on {torch.device or 'the CPU'}" if torch else "not installed",
        "card": "; ".join(f"{card.name}, {card.memory_gb or 0:.1f} GB" for card in cards) or "no NVIDIA card found",
        "driver": cards[0].driver if cards else "-",
        "free disk": f"{free_gb:.1f} GB",
        "memory": f"{memory.total_gb:.1f} GB" if memory else "not known",
    }
    print(*(f"{name:<11}{fact}" for name, fact in facts.items()), sep="\n")
    problems = failure_lines(failure) + (unused_card(torch, cards) if torch else [])
    if "WindowsApps" in sys.base_prefix:
        problems += [
            "Python comes from the Microsoft Store, which hides files from other programs.",
            f"  Install it from python.org, delete {VENV} and start again.",
        ]
    if free_gb < 20:
        problems += [
            "The disk is nearly full: a checkpoint of SD1 takes 2 to 4 GB.",
            "  Free some space before a long run.",
        ]
    print("", *(problems or [f"No problem found. Start with {COMMAND}."]), sep="\n")
    return 1 if problems else 0


def failure_lines(failure: LaunchError | None) -> list[str]:
    """The error of an installation as lines."""
    return [f"Installing failed: {failure}", *(f"  {hint}" for hint in failure.hints)] if failure else []
