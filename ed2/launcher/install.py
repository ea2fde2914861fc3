"""Installs PyTorch in the build that suits this computer, and the other packages. Standard library only."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from ed2.launcher.cards import Card, leading_number, nvidia_cards
from ed2.launcher.environment import ROOT, VENV, LaunchError, locked, runs, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TORCH = "2.13.0"
WHEELS = "https://download.pytorch.org/whl/"
OFFLINE = "Without a connection? Connect and start again: what is already downloaded is kept."
PIP = ("-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input")


def torch_backend(cards: Sequence[Card]) -> str:
    """Which build of PyTorch suits these cards: cpu, cu126 or cu130; ED_TORCH decides over it."""
    forced = os.environ.get("ED_TORCH", "")
    if forced:
        if not re.fullmatch(r"cpu|cu\d+|rocm[\d.]+|xpu", forced):
            raise LaunchError(f"ED_TORCH is '{forced}'", "It may be cpu, cu126, cu130, xpu, or rocm and a version.")
        return forced
    if not cards:
        return "cpu"
    driver = leading_number(cards[0].driver) or 0
    newest = max((card.capability or 0) for card in cards)
    least = 580 if newest >= 10 else 525  # Blackwell needs CUDA 13
    if driver < least:
        raise LaunchError(
            f"{cards[0].name} needs NVIDIA driver {least} or newer, this computer has {cards[0].driver}",
            "Update the driver and start again. To train without the card, set ED_TORCH=cpu.",
        )
    is_old = 0 < newest < 7.5  # CUDA 13 has left Maxwell, Pascal and Volta behind
    return "cu126" if driver < 580 or is_old else "cu130"


class Torch(NamedTuple):
    """PyTorch as it is installed. `device` is the name of the card that it uses, empty for none."""

    version: str
    device: str


def installed_torch() -> Torch | None:
    """PyTorch of this Python, by importing it in a process of its own; None where that fails."""
    device = "torch.cuda.get_device_name() if torch.cuda.is_available() else ''"
    code = f"import torch; print(torch.__version__); print({device})"
    answer = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    lines = answer.stdout.splitlines()
    return Torch(lines[-2], lines[-1]) if answer.returncode == 0 and len(lines) > 1 else None


def pip(*arguments: str) -> bool:
    """Run pip install; its output goes to stderr, only what matters where nobody watches."""
    quiet = [] if sys.stderr.isatty() else ["-q"]
    return subprocess.call([sys.executable, *PIP, *quiet, *arguments], stdout=sys.stderr) == 0


def torch_arguments(backend: str, system: str = sys.platform) -> list[str]:
    """What pip needs to get that build. Where PyPI's own build would do too, it is the fallback.

    One version, many builds: 2.13.0+cpu sorts above 2.13.0 (PEP 440), so the build from PyTorch's index, or from a
    folder that pip is set up with, wins over PyPI's. PyPI has CUDA 13 for Linux and no CUDA at all for Windows.
    """
    is_fallback = backend == "cpu" or (backend == "cu130" and system == "linux")
    version = TORCH if is_fallback else f"{TORCH}+{backend}"
    index = [] if backend == "cpu" and system != "linux" else ["--extra-index-url", WHEELS + backend]
    return ["--retries", "1", "--timeout", "15", *index, f"torch=={version}"]


def install_torch(cards: Sequence[Card]) -> Torch:
    """Install the build of PyTorch that suits this computer. Raises LaunchError where it does not start after that."""
    backend = torch_backend(cards)
    require_space(3 if backend == "cpu" else 10)
    size = "a few hundred MB" if backend == "cpu" else "about 3 GB"
    why = cards[0].name if cards else "no NVIDIA card found"
    say(f"Step 1 of 2: PyTorch {TORCH} for {backend} ({why}), {size} to download ...")
    # What an interrupted installation left behind has no record that pip could remove it by.
    if not pip("--ignore-installed", *torch_arguments(backend)):
        raise LaunchError("PyTorch could not be installed, see pip's message above", OFFLINE)
    torch = installed_torch()
    if torch is None:
        windows = ["It may need the Microsoft Visual C++ Redistributable."] if os.name == "nt" else []
        see = f'See why with: {sys.executable} -c "import torch"'
        raise LaunchError("PyTorch is installed but does not start", *windows, see)
    return torch


def require_space(need_gb: float) -> None:
    """Raise LaunchError where the disk has not room for the packages."""
    free_gb = shutil.disk_usage(VENV).free / 2**30
    if free_gb < need_gb:
        raise LaunchError(
            f"the disk of {VENV} has {free_gb:.1f} GB free, the packages need about {need_gb:g} GB",
            "Free some space and start again; what is already installed is kept.",
        )


def optional_parts() -> dict[str, list[str]]:
    """The optional requirements of pyproject.toml, `dev` among them."""
    import tomllib

    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(table["project"]["optional-dependencies"])


def stamp_of(*, dev: bool) -> tuple[Path, str]:
    """The file that is written last of an installation, and what it holds once that one is complete."""
    digest = hashlib.sha256(sys.version.encode())
    for name in ("requirements.txt", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    digest.update(str(optional_parts()["dev"]).encode() if dev else b"")
    return VENV / (".installed-dev" if dev else ".installed"), digest.hexdigest()


def is_installed(*, dev: bool = False) -> bool:
    """Whether `.venv` holds what this version of the program needs; `dev`: for its tests as well."""
    stamp, digest = stamp_of(dev=dev)
    return stamp.is_file() and stamp.read_text() == digest


def install(*, dev: bool = False) -> None:
    """Install what is missing. Starting again after an interruption goes on from there. Raises LaunchError."""
    if is_installed(dev=dev):
        return
    with locked():
        if is_installed(dev=dev):
            return
        cards = nvidia_cards()
        torch = installed_torch() or install_torch(cards)
        require_space(1)
        say("Step 2 of 2: the other packages, some minutes at the first time ...")
        more = optional_parts()["dev"] if dev else []
        pinned = f"torch=={torch.version}"  # in the same call, so that no requirement can move it
        if not pip("-r", str(ROOT / "requirements.txt"), "-c", str(ROOT / "constraints.txt"), pinned, *more):
            raise LaunchError("the packages could not be installed, see pip's message above", OFFLINE)
        for is_dev in (False, True) if dev else (False,):
            stamp, digest = stamp_of(dev=is_dev)
            stamp.write_text(digest)
        say(f"Installed. PyTorch {torch.version} on {torch.device or 'the CPU'}.", *unused_card(torch, cards))


def unused_card(torch: Torch, cards: Sequence[Card]) -> list[str]:
    """A warning, if there is a card that this PyTorch does not use, and what to do."""
    if not cards or torch.device or os.environ.get("ED_TORCH") == "cpu":
        return []
    return [
        f"WARNING: {cards[0].name} (driver {cards[0].driver}) is not used: PyTorch {torch.version} finds no CUDA.",
        f"  Update the NVIDIA driver; if that does not help, delete {VENV} and start again.",
    ]


def add(names: Sequence[str]) -> None:
    """Install optional parts by name, never anything that they depend on: PyTorch stays. Raises LaunchError."""
    parts = optional_parts()
    del parts["dev"]
    unknown = [name for name in names if name not in parts]
    if unknown or not names:
        what = f"there is no optional part '{unknown[0]}'" if unknown else "say which optional part"
        raise LaunchError(what, f"There are {', '.join(parts)}.")
    requirements = [requirement for name in names for requirement in parts[name]]
    with locked():
        before = installed_torch()
        if not pip("--no-deps", *requirements):
            raise LaunchError("it could not be installed, see pip's message above", OFFLINE)
        after = installed_torch()
    if before is None or after is None or before.version != after.version:
        raise LaunchError(f"PyTorch changed from {before} to {after}", f"Delete {VENV} and start again.")
    for requirement in requirements:
        module = re.split(r"\W", requirement)[0]
        if not runs(sys.executable, "-I", "-c", f"import importlib.metadata as m; m.version('{module}')"):
            raise LaunchError(f"{module} is not made for this system")
    say(f"Added {', '.join(names)}. PyTorch {after.version} is unchanged.")
