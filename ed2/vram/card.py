"""The device that a run is planned for: found through NVIDIA's library, without initialising it, or assumed."""

import importlib
import os
import re
from dataclasses import dataclass
from typing import Any, Literal

BYTES_PER_GB = 2**30
TAKEN_GB = 0.3
"""GB assumed to be used by the system on a GPU of which only the size is known."""
TAKEN_BY_DISPLAY_GB = 0.8
"""What the system is expected to use of a GPU that drives a screen, even if it uses less at this moment."""

Verdict = Literal["fits", "tight", "does not fit"]


@dataclass(frozen=True)
class Card:
    """The device that a run computes on.

    Attributes:
        kind: cuda, or cpu for system memory.
        total_gb: its memory in GB of 2**30 bytes; None if unknown.
        free_gb: its free memory.
        name: as the driver gives it.
        has_bf16: whether it computes in bf16, so that mixed precision is not fp16.
    """

    kind: Literal["cuda", "cpu"] = "cuda"
    total_gb: float | None = None
    free_gb: float | None = None
    name: str = ""
    has_bf16: bool = True

    @classmethod
    def of_size(cls, total_gb: float) -> "Card":
        """A GPU of which only the size is known."""
        return cls(total_gb=total_gb, free_gb=total_gb - TAKEN_GB, name=f"a card with {total_gb:g} GB")


NO_CARD = Card(kind="cpu", name="the CPU")


def card_for(device: str) -> Card:
    """The GPU of the setting `device`, without initialising it; `NO_CARD` if there is none."""
    if device == "cpu":
        return NO_CARD
    numbered = re.fullmatch(r"cuda:(\d+)", device)
    try:
        return _by_driver(importlib.import_module("pynvml"), int(numbered[1]) if numbered else 0)
    except Exception:  # no package, no driver, no such GPU, or one that does not answer
        return NO_CARD


def count_cards() -> int:
    """How many GPUs a run may use, without initialising them; 0 where the driver does not say."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        try:
            return len(visible_cards(nvml))
        finally:
            nvml.nvmlShutdown()
    except Exception:  # no package, no driver, or one that does not answer
        return 0


def visible_cards(nvml: Any) -> list[Any]:
    """The handles of the GPUs that programs started from here may use, from NVIDIA's library."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    places = [int(name) for name in named if name.strip().isdecimal()]
    return [handles[place] for place in places if place < len(handles)] or handles


def _by_driver(nvml: Any, index: int) -> Card:
    nvml.nvmlInit()
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory, name = nvml.nvmlDeviceGetMemoryInfo(handle), nvml.nvmlDeviceGetName(handle)
        has_display, has_bf16 = _has_display(nvml, handle), _has_bf16(nvml, handle)
    finally:
        nvml.nvmlShutdown()
    text = name if isinstance(name, str) else name.decode()
    total_gb, free_gb = memory.total / BYTES_PER_GB, memory.free / BYTES_PER_GB
    if has_display:
        free_gb = min(free_gb, total_gb - TAKEN_BY_DISPLAY_GB)
    return Card("cuda", total_gb, free_gb, text, has_bf16)


def _has_display(nvml: Any, handle: Any) -> bool:
    """Whether a screen is attached and in use; False where the driver does not say."""
    try:
        return bool(nvml.nvmlDeviceGetDisplayActive(handle))
    except Exception:  # not supported by this GPU or driver
        return False


def _has_bf16(nvml: Any, handle: Any) -> bool:
    """Whether a GPU computes in bf16, as from compute capability 8.0 on; True where the driver does not say."""
    try:
        return tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)) >= (8, 0)
    except Exception:  # not supported by this driver
        return True
