"""Current use of GPU and system memory, by this program and by others; and the peaks of a run.

Once PyTorch uses a GPU, its sizes come from PyTorch, before that from the driver. What only the driver knows (the share
of each program, how busy the GPU is) is left out if the driver does not say.
"""

import contextlib
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from ed2.vram.card import BYTES_PER_GB, text_of, visible_cards
from ed2.vram.overhead import Reading

BUSY_STEP = 5
"""Percent; rounded, so that the page is not redrawn for every small change."""


@dataclass(frozen=True)
class Share:
    """The size and use of one memory in GB of 2**30 bytes, rounded so that an idle run gives equal readings.

    Attributes:
        is_split: whether it is known what is ours; if not, all that is used counts as of others.
    """

    total: float
    own: float
    others: float
    is_split: bool = True

    @classmethod
    def of_bytes(cls, total: int, used: int, own: int, *, is_split: bool = True) -> "Share":
        """Split the used bytes into ours and those of other programs."""
        own = min(own, used)
        total_gb, own_gb, others_gb = (round(number / BYTES_PER_GB, 1) for number in (total, own, used - own))
        return cls(total_gb, own_gb, others_gb, is_split)


@dataclass(frozen=True)
class CardUse:
    """A reading of one GPU.

    Attributes:
        busy_percent: share of the time in which it computed; None if the driver does not say.
    """

    name: str
    share: Share
    busy_percent: int | None = None


@dataclass(frozen=True)
class MemoryUse:
    """A reading; `cards` is empty without an NVIDIA GPU."""

    pc: Share
    cards: tuple[CardUse, ...] = ()


class MemorySampler:
    """Reads GPU and system memory."""

    def __init__(self) -> None:
        self._nvml: Any = _nvml()

    def read(self, processes: Sequence[int] = ()) -> MemoryUse:
        """Read all once; `processes` are the numbers of others that count as ours, since they train a run of ours."""
        memory = psutil.virtual_memory()
        own = sum(map(_resident_bytes, (os.getpid(), *processes)))
        pc = Share.of_bytes(memory.total, memory.total - memory.available, own)
        try:
            return MemoryUse(pc, tuple(self._cards(processes)))
        except Exception:  # drivers fail in many ways; none should stop the reading
            return MemoryUse(pc)

    def _cards(self, processes: Sequence[int]) -> list[CardUse]:
        """First the GPU that PyTorch uses here, by PyTorch, then all others by the driver."""
        nvml, torch, ours = self._nvml, _torch_in_use(), {os.getpid(), *processes}
        found, handle = [], None
        if torch:
            index = _busiest(torch)
            handle = _handle(nvml, torch, index)
            share = _by_torch(torch, index, _own_bytes(nvml, handle, ours))
            found.append(CardUse(_name(nvml, handle, torch, index), share, _busy_percent(nvml, handle)))
            if handle is None:  # it could be any of those that the driver knows
                return found
        known = visible_cards(nvml) if nvml else []
        others = [other for other in known if handle is None or _uuid(nvml, other) != _uuid(nvml, handle)]
        own_bytes = [_own_bytes(nvml, other, ours) for other in others]
        is_split = not processes or any(own_bytes)
        for other, own in zip(others, own_bytes, strict=True):
            share = _by_driver(nvml, other, own or 0, is_split=is_split)
            found.append(CardUse(_name(nvml, other, None, 0), share, _busy_percent(nvml, other)))
        return found


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
        own = _own_bytes(nvml, _handle(nvml, torch, self.index), {os.getpid()})
        return Reading(
            planned_gb=planned_gb,
            allocated_gb=torch.cuda.max_memory_allocated(self.index) / BYTES_PER_GB,
            reserved_gb=torch.cuda.max_memory_reserved(self.index) / BYTES_PER_GB,
            context_gb=own and max(0, own - torch.cuda.memory_reserved(self.index)) / BYTES_PER_GB,
        )

    def fullness(self) -> float:
        """Used share of the GPU's memory, by any program; above 1 if the driver gave PyTorch more than there is."""
        import torch

        free, total = torch.cuda.mem_get_info(self.index)
        return max(total - free, torch.cuda.memory_reserved(self.index)) / total


def _by_torch(torch: Any, index: int, own: int | None) -> Share:
    free, total = torch.cuda.mem_get_info(index)
    return Share.of_bytes(total, total - free, torch.cuda.memory_reserved(index) if own is None else own)


def _by_driver(nvml: Any, handle: Any, own: int, *, is_split: bool) -> Share:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Share.of_bytes(memory.total, memory.used, own, is_split=is_split)


def _name(nvml: Any, handle: Any, torch: Any, index: int) -> str:
    if torch:
        return str(torch.cuda.get_device_name(index))
    return text_of(nvml.nvmlDeviceGetName(handle))


def _own_bytes(nvml: Any, handle: Any, ours: Collection[int]) -> int | None:
    """Bytes that the driver counts for our processes; None if it does not, as on Windows and in containers."""
    if handle is None:
        return None
    with contextlib.suppress(Exception):
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return sum(int(process.usedGpuMemory or 0) for process in running if process.pid in ours) or None
    return None


def _resident_bytes(process: int) -> int:
    """Main memory of a process; 0 if it has ended."""
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(process).memory_info().rss)
    return 0


def _busy_percent(nvml: Any, handle: Any) -> int | None:
    with contextlib.suppress(Exception):
        return BUSY_STEP * round(nvml.nvmlDeviceGetUtilizationRates(handle).gpu / BUSY_STEP)
    return None


def _handle(nvml: Any, torch: Any, index: int) -> Any:
    """The driver's handle of PyTorch's GPU `index`, since the two may number GPUs differently; None without one."""
    if nvml is None:
        return None
    with contextlib.suppress(Exception):
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
    return None


def _uuid(nvml: Any, handle: Any) -> str:
    with contextlib.suppress(Exception):
        return text_of(nvml.nvmlDeviceGetUUID(handle))
    return ""


def _busiest(torch: Any) -> int:
    """The GPU on which PyTorch uses the most memory, since this thread does not know which one the trainer chose."""
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
