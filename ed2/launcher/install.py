"""Finds the GPUs, and installs the build of PyTorch that suits them and the other packages. Standard library only."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ed2.launcher.environment import ROOT, VENV, LaunchError, locked, runs, say

if TYPE_CHECKING:
    from collections.abc import Sequence

ROCM = "rocm7.2"
"""The build for AMD: that of PyTorch 2.13 on PyTorch's index, for Linux. It was not tested with this program."""
AMD = "0x1002"
AMD_LEAST_GB = 6
"""AMD GPUs with less memory of their own are part of a processor, or too small to train on."""
UNTESTED = "  AMD GPUs were not tested with this program: it may be slow or fail. ED_TORCH=cpu trains without the GPU."

TORCH = "2.13.0"
WHEELS = "https://download.pytorch.org/whl/"
OFFLINE = "If you are offline, connect and start again: finished downloads are kept."
PIP = ("-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-compile")
"""Python compiles a module at its first use; to compile all would be more than half of the installation's computing."""


class Gpu(NamedTuple):
    """A GPU as its driver lists it; memory and compute capability are None if unknown."""

    name: str
    driver: str
    memory_gb: float | None
    capability: float | None
    is_amd: bool = False


def find_gpus() -> list[Gpu]:
    """The NVIDIA GPUs, or where there are none, the AMD GPUs."""
    return nvidia_gpus() or amd_gpus()


def nvidia_gpus() -> list[Gpu]:
    """The NVIDIA GPUs that work with their driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    for extra in (",compute_cap", ""):  # old drivers refuse the whole query for compute_cap
        query = [program, f"--query-gpu=name,driver_version,memory.total{extra}", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return []
        rows = [re.split(r"\s*,\s*", line.strip()) for line in answer.stdout.splitlines()]
        if answer.returncode == 0 and rows and {len(row) for row in rows} <= {3, 4}:
            return [_gpu(*row) for row in rows]
    return []


def _gpu(name: str, driver: str, memory_mb: str, capability: str = "") -> Gpu:
    megabytes = _leading_number(memory_mb)
    return Gpu(name, driver, megabytes / 1024 if megabytes else None, _leading_number(capability))


def _leading_number(text: str) -> float | None:
    """The number at the start of `text`; None for "[N/A]", which nvidia-smi prints for unknown values."""
    found = re.match(r"\d+(\.\d+)?", text)
    return float(found.group()) if found else None


def amd_gpus(root: Path = Path("/")) -> list[Gpu]:
    """The AMD GPUs that ROCm could use: of Linux, with the driver's device for computing, and memory of their own.

    Source: Linux kernel documentation, gpu/amdgpu/driver-misc: `mem_info_vram_total`.
    """
    if not (root / "dev/kfd").exists():
        return []
    found = []
    for card in sorted((root / "sys/class/drm").glob("card[0-9]*/device")):
        memory_gb = (_leading_number(_line(card / "mem_info_vram_total")) or 0) / 2**30
        if _line(card / "vendor") == AMD and memory_gb >= AMD_LEAST_GB:
            found.append(Gpu(_line(card / "product_name") or "AMD GPU", "amdgpu", memory_gb, None, is_amd=True))
    return found


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def torch_backend(gpus: Sequence[Gpu]) -> str:
    """The build of PyTorch for these GPUs: cpu, cu126, cu130 or that of ROCm. The variable ED_TORCH overrides it."""
    forced = os.environ.get("ED_TORCH", "")
    if forced:
        if not re.fullmatch(r"cpu|cu\d+|rocm[\d.]+|xpu", forced):
            raise LaunchError(f"ED_TORCH is '{forced}'", "Set it to cpu, cu126, cu130, xpu, or rocm and a version.")
        return forced
    if not gpus:
        return "cpu"
    return ROCM if gpus[0].is_amd else _nvidia_backend(gpus)


def _nvidia_backend(gpus: Sequence[Gpu]) -> str:
    driver = _leading_number(gpus[0].driver) or 0
    newest = max((gpu.capability or 0) for gpu in gpus)
    least = 580 if newest >= 10 else 525  # Blackwell needs CUDA 13
    if driver < least:
        raise LaunchError(
            f"{gpus[0].name} needs NVIDIA driver {least} or newer, but this computer has {gpus[0].driver}",
            "Update the driver and start again. To train without the GPU, set ED_TORCH=cpu.",
        )
    if driver < 580 or 0 < newest < 7.5:  # CUDA 13 dropped Maxwell, Pascal and Volta
        return "cu126"
    return "cu130"


class Torch(NamedTuple):
    """The installed PyTorch; `device` is the name of the GPU that it uses, empty for none."""

    version: str
    device: str


def installed_torch() -> Torch | None:
    """The PyTorch of this Python, imported in a process of its own; None if that fails."""
    device = "torch.cuda.get_device_name() if torch.cuda.is_available() else ''"
    code = f"import torch; print(torch.__version__); print({device})"
    answer = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    lines = answer.stdout.splitlines()
    return Torch(lines[-2], lines[-1]) if answer.returncode == 0 and len(lines) > 1 else None


def pip(*arguments: str) -> bool:
    """Run pip install and print its output to stderr; without a terminal, only warnings and errors."""
    quiet = [] if sys.stderr.isatty() else ["-q"]
    return subprocess.call([sys.executable, *PIP, *quiet, *arguments], stdout=sys.stderr) == 0


def torch_arguments(backend: str, system: str = sys.platform) -> list[str]:
    """The arguments with which pip gets that build. Where PyPI's own build would do too, it is the fallback.

    One version has many builds: 2.13.0+cpu sorts above 2.13.0 (PEP 440), so the build from PyTorch's index, or from a
    folder that pip is set up with, wins over PyPI's. PyPI has CUDA 13 for Linux and no CUDA at all for Windows.
    """
    version, index = f"{TORCH}+{backend}", ["--extra-index-url", WHEELS + backend]
    if backend == "cpu" or (backend == "cu130" and system == "linux"):
        version = TORCH
    if backend == "cpu" and system != "linux":
        index = []
    return ["--retries", "1", "--timeout", "15", *index, f"torch=={version}"]


def install_torch(gpus: Sequence[Gpu]) -> Torch:
    """Install the build of PyTorch that suits this computer. Raises LaunchError if it does not start afterwards."""
    backend = torch_backend(gpus)
    size, need_gb = "about 3 GB", 10
    if backend == "cpu":
        size, need_gb = "a few hundred MB", 3
    require_space(need_gb)
    why = gpus[0].name if gpus else "no NVIDIA GPU found"
    say(f"Step 1 of 2: downloading PyTorch {TORCH} for {backend} ({why}), {size} ...")
    if gpus and gpus[0].is_amd:
        say(UNTESTED)
    # An interrupted installation leaves files without the record that pip needs to remove them.
    if not pip("--ignore-installed", *torch_arguments(backend)):
        raise LaunchError("PyTorch could not be installed, see pip's message above", OFFLINE)
    torch = installed_torch()
    if torch is None:
        hints = [f'To see why, run: {sys.executable} -c "import torch"']
        if os.name == "nt":
            hints.insert(0, "It may need the Microsoft Visual C++ Redistributable.")
        raise LaunchError("PyTorch is installed but does not start", *hints)
    return torch


def free_disk_gb(folder: Path) -> float:
    """Free space on the disk of a folder, in GB of 2**30 bytes."""
    return shutil.disk_usage(folder).free / 2**30


def require_space(need_gb: float) -> None:
    """Raise LaunchError if the disk has no room for the packages."""
    free_gb = free_disk_gb(VENV)
    if free_gb < need_gb:
        raise LaunchError(
            f"the packages need about {need_gb:g} GB, but the disk of {VENV} has {free_gb:.1f} GB free",
            "Free some space and start again; installed packages are kept.",
        )


def optional_packages() -> dict[str, list[str]]:
    """The optional requirements of pyproject.toml, including `dev`."""
    import tomllib

    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(table["project"]["optional-dependencies"])


def stamp_of(*, dev: bool) -> tuple[Path, str]:
    """The file that an installation writes last, and its content once the installation is complete."""
    digest = hashlib.sha256(sys.version.encode())
    for name in ("requirements.txt", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    if not dev:
        return VENV / ".installed", digest.hexdigest()
    digest.update(str(optional_packages()["dev"]).encode())
    return VENV / ".installed-dev", digest.hexdigest()


def is_installed(*, dev: bool = False) -> bool:
    """Whether `.venv` holds what this version needs; with `dev`, also what its tests need."""
    stamp, digest = stamp_of(dev=dev)
    return stamp.is_file() and stamp.read_text() == digest


def install(*, dev: bool = False) -> None:
    """Install what is missing; after an interruption, continue from there. Raises LaunchError."""
    if is_installed(dev=dev):
        return
    with locked():
        if is_installed(dev=dev):
            return
        gpus = find_gpus()
        torch = installed_torch() or install_torch(gpus)
        require_space(1)
        say("Step 2 of 2: installing the other packages, which takes some minutes the first time ...")
        more, stamps = [], [stamp_of(dev=False)]
        if dev:
            more = optional_packages()["dev"]
            stamps.append(stamp_of(dev=True))
        pinned = f"torch=={torch.version}"  # in the same call, so that no requirement can move it
        if not pip("-r", str(ROOT / "requirements.txt"), "-c", str(ROOT / "constraints.txt"), pinned, *more):
            raise LaunchError("the packages could not be installed, see pip's message above", OFFLINE)
        for stamp, digest in stamps:
            stamp.write_text(digest)
        say(f"Installed. PyTorch {torch.version} on {torch.device or 'the CPU'}.", *unused_gpu(torch, gpus))


def unused_gpu(torch: Torch | None, gpus: Sequence[Gpu]) -> list[str]:
    """A warning, if there is a GPU that this PyTorch does not use, and what to do."""
    if not torch or not gpus or torch.device or os.environ.get("ED_TORCH") == "cpu":
        return []
    what, fix = "CUDA", "Update the NVIDIA driver"
    if gpus[0].is_amd:
        what, fix = "ROCm", "Your user must be in the groups render and video (sudo usermod -aG render,video $USER)"
    return [
        f"WARNING: {gpus[0].name} (driver {gpus[0].driver}) is not used: PyTorch {torch.version} finds no {what}.",
        f"  {fix}; if that does not help, delete {VENV} and start again.",
    ]


def add(names: Sequence[str]) -> None:
    """Install optional packages by name without their dependencies, so that PyTorch stays. Raises LaunchError."""
    packages = optional_packages()
    del packages["dev"]
    choices = f"Choose from: {', '.join(packages)}."
    if not names:
        raise LaunchError("no optional package was named", choices)
    requirements: list[str] = []
    for name in names:
        if name not in packages:
            raise LaunchError(f"there is no optional package '{name}'", choices)
        requirements += packages[name]
    with locked():
        before = installed_torch()
        if not pip("--no-deps", *requirements):
            raise LaunchError("the package could not be installed, see pip's message above", OFFLINE)
        after = installed_torch()
    _require_same(before, after)
    for requirement in requirements:
        module = re.split(r"[^\w-]", requirement)[0]
        if not runs(sys.executable, "-I", "-c", f"import importlib.metadata as m; m.version('{module}')"):
            raise LaunchError(f"{module} is not available for this system")
    say(f"Added {', '.join(names)}. {describe_torch(after)} is unchanged.")


def _require_same(before: Torch | None, after: Torch | None) -> None:
    if before is None or after is None or before.version != after.version:
        what = f"the installation changed {describe_torch(before)} to {describe_torch(after)}"
        raise LaunchError(what, f"Delete {VENV} and start again.")


def describe_torch(torch: Torch | None) -> str:
    """PyTorch and its version, as text."""
    return f"PyTorch {torch.version}" if torch else "PyTorch (not working)"
