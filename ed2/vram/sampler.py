"""Current use of GPU and system memory, by this program and by others; and the peaks of a run.

Once PyTorch uses a GPU, its sizes come from PyTorch, before that from the driver. What only the driver knows (the share
of each program, how busy the GPU is) is left out if the driver does not say.
"""

import contextlib
import os
import sys
from dataclasses import dataclass
from typing import Any

import psutil

from ed2.vram.overhead import Reading

BYTES_PER_GB = 2**30
BUSY_STEP = 5
"""Percent; rounded, so that the page is not redrawn for every small change."""


@dataclass(frozen=True)
class Share:
    """The size and use of one memory in GB of 2**30 bytes, rounded so that an idle run gives equal readings."""

    total: float
    own: float
    others: float

    @classmethod
    def of_bytes(cls, total: int, used: int, own: int) -> "Share":
        """Split the used bytes into ours and those of other programs."""
        own = min(own, used)
        total_gb, own_gb, others_gb = (round(number / BYTES_PER_GB, 1) for number in (total, own, used - own))
        return cls(total_gb, own_gb, others_gb)


@dataclass(frozen=True)
class MemoryUse:
    """A reading; `card` is None without an NVIDIA GPU.

    Attributes:
        busy_percent: share of the time in which the GPU computed; None if the driver does not say.
    """

    pc: Share
    card: Share | None = None
    card_name: str = ""
    busy_percent: int | None = None


class MemorySampler:
    """Reads GPU and system memory."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._nvml: Any = _nvml()

    def read(self) -> MemoryUse:
        """Read both once."""
        memory = psutil.virtual_memory()
        pc = Share.of_bytes(memory.total, memory.total - memory.available, self._process.memory_info().rss)
        torch = _torch_in_use()
        try:
            index = _busiest(torch)
            handle = _handle(self._nvml, torch, index)
            if torch is None and handle is None:
                return MemoryUse(pc)
            card = _by_torch(torch, index, _own_bytes(self._nvml, handle)) if torch else _by_driver(self._nvml, handle)
            return MemoryUse(pc, card, _name(self._nvml, handle, torch, index), _busy_percent(self._nvml, handle))
        except Exception:  # drivers fail in many ways; none should stop the reading
            return MemoryUse(pc)


@dataclass(frozen=True)
class CardPeaks:
    """PyTorch's counters of the GPU with this index, for this process."""

    index: int

    def reset(self) -> None:
        """Start counting from here."""
        import torch

        torch.cuda.reset_peak_memory_stats(self.index)

    def read(self, planned_gb: float) -> Reading:
        """The peak since `reset`, with what was planned for it."""
        import torch

        nvml = _nvml()
        own = _own_bytes(nvml, _handle(nvml, torch, self.index))
        return Reading(
            planned_gb=planned_gb,
            allocated_gb=torch.cuda.max_memory_allocated(self.index) / BYTES_PER_GB,
            reserved_gb=torch.cuda.max_memory_reserved(self.index) / BYTES_PER_GB,
            context_gb=own and max(0, own - torch.cuda.memory_reserved(self.index)) / BYTES_PER_GB,
        )

    def fullness(self) -> float:
        """Used share of the GPU's memory, by any program."""
        import torch

        free, total = torch.cuda.mem_get_info(self.index)
        return 1 - free / total


def _by_torch(torch: Any, index: int, own: int | None) -> Share:
    free, total = torch.cuda.mem_get_info(index)
    return Share.of_bytes(total, total - free, torch.cuda.memory_reserved(index) if own is None else own)


def _by_driver(nvml: Any, handle: Any) -> Share:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Share.of_bytes(memory.total, memory.used, 0)


def _name(nvml: Any, handle: Any, torch: Any, index: int) -> str:
    if torch:
        return str(torch.cuda.get_device_name(index))
    name = nvml.nvmlDeviceGetName(handle)
    return name if isinstance(name, str) else str(name.decode())


def _own_bytes(nvml: Any, handle: Any) -> int | None:
    """Bytes that the driver counts for this process; None if it does not, as on Windows and in containers."""
    if handle is None:
        return None
    with contextlib.suppress(Exception):
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == os.getpid() and process.usedGpuMemory:
                return int(process.usedGpuMemory)
    return None


def _busy_percent(nvml: Any, handle: Any) -> int | None:
    with contextlib.suppress(Exception):
        return BUSY_STEP * round(nvml.nvmlDeviceGetUtilizationRates(handle).gpu / BUSY_STEP)
    return None


def _handle(nvml: Any, torch: Any, index: int) -> Any:
    """The driver's handle of PyTorch's GPU `index`, since the two may number GPUs differently; else of the first."""
    if nvml is None:
        return None
    if torch is None:
        return nvml.nvmlDeviceGetHandleByIndex(0)
    with contextlib.suppress(Exception):
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
    return None


def _busiest(torch: Any) -> int:
    """The GPU on which PyTorch uses the most memory, since this thread does not know which one the trainer chose."""
    if not torch:
        return 0
    return max(range(torch.cuda.device_count()), key=torch.cuda.memory_reserved)


def _torch_in_use() -> Any:
    """PyTorch if it uses a GPU already; None otherwise. Never initialises it."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and getattr(cuda, "is_initialized", bool)():
        return torch
    return None


def _nvml() -> Any:
    """NVIDIA's library, ready for use; None without a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        if not pynvml.nvmlDeviceGetCount():
            return None
        return pynvml
    except Exception:  # no package, no driver, or one that does not answer
        return None
