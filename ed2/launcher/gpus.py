"""The GPUs of this computer, and the build of PyTorch that suits them. Standard library only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ed2.launcher.environment import LaunchError

if TYPE_CHECKING:
    from collections.abc import Sequence

ROCM = "rocm7.2"
"""The build for AMD: that of PyTorch 2.13 on PyTorch's index, for Linux. It was not tested with this program."""
AMD = "0x1002"
AMD_LEAST_GB = 6
"""AMD GPUs with less memory of their own are part of a processor, or too small to train on."""
UNTESTED = "  AMD GPUs were not tested with this program: it may be slow or fail. ED_TORCH=cpu trains without the GPU."


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
