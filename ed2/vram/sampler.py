"""What is used now of the card's and the computer's memory, by this program and by others."""

import sys
from dataclasses import dataclass
from typing import Any

import psutil

BYTES_PER_GB = 2**30


@dataclass(frozen=True)
class Share:
    """One memory: its size and who uses it, in GB of 2**30 bytes, rounded so that a still run gives equal readings."""

    total: float
    own: float
    others: float

    @classmethod
    def of_bytes(cls, total: int, used: int, own: int) -> "Share":
        """Take what is used apart into ours and theirs."""
        own = min(own, used)
        total_gb, own_gb, others_gb = (round(number / BYTES_PER_GB, 1) for number in (total, own, used - own))
        return cls(total_gb, own_gb, others_gb)


@dataclass(frozen=True)
class MemoryUse:
    """A reading; `card` is None where there is no NVIDIA card."""

    pc: Share
    card: Share | None = None
    card_name: str = ""


class MemorySampler:
    """Reads the memories; the card through its driver, else through PyTorch where that has it already in use."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._nvml: Any = _nvml()

    def read(self) -> MemoryUse:
        """A reading."""
        memory = psutil.virtual_memory()
        pc = Share.of_bytes(memory.total, memory.total - memory.available, self._process.memory_info().rss)
        index, own = _torch_card()
        try:
            card, name = self._by_driver(index, own) if self._nvml else _by_torch(index, own)
        except Exception:  # drivers fail in many ways, and none of them is worth the reading
            return MemoryUse(pc)
        return MemoryUse(pc, card, name)

    def _by_driver(self, index: int, own: int) -> tuple[Share, str]:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(max(0, index))
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        name = self._nvml.nvmlDeviceGetName(handle)
        return Share.of_bytes(memory.total, memory.used, own), name if isinstance(name, str) else name.decode()


def _by_torch(index: int, own: int) -> tuple[Share | None, str]:
    if index < 0:
        return None, ""
    import torch

    free, total = torch.cuda.mem_get_info(index)
    return Share.of_bytes(total, total - free, own), torch.cuda.get_device_name(index)


def _torch_card() -> tuple[int, int]:
    """The card that PyTorch works on and the bytes that it holds; -1 while it uses none. Never makes it begin to."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not getattr(cuda, "is_initialized", bool)():
        return -1, 0
    return cuda.current_device(), cuda.memory_reserved()


def _nvml() -> Any:
    """NVIDIA's library, ready for use; None where there is no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml if pynvml.nvmlDeviceGetCount() else None
    except Exception:  # no package, no driver, or one that does not answer
        return None
