"""The device that a run is planned for: found through NVIDIA's library, without initialising it, or assumed."""

import contextlib
import importlib
import os
import re
from dataclasses import dataclass
from typing import Any, Literal

BYTES_PER_GB = 2**30
VISIBLE = "CUDA_VISIBLE_DEVICES"
PART = "MIG-"
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


def card_for(device: str, vram_gb: float | None = None) -> Card:
    """A GPU of `vram_gb`, else that of the setting `device`, without initialising it; `NO_CARD` if there is none."""
    if vram_gb:
        return Card.of_size(vram_gb)
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
    """The handles of the GPUs that programs started from here may use, in their order, from NVIDIA's library.

    `CUDA_VISIBLE_DEVICES` names them by number or by the beginning of their UUID, and ends at the first name that no
    GPU has. Of the parts of a GPU (MIG), a program can use only one.
    Sources: NVIDIA, CUDA Programming Guide, "CUDA Environment Variables"; MIG User Guide, "CUDA Visible Devices".
    """
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    given = os.environ.get(VISIBLE)
    if given is None:
        return handles
    found: list[Any] = []
    for name in map(str.strip, given.split(",")):
        handle = _part_named(nvml, handles, name) if name.startswith(PART) else _card_named(nvml, handles, name)
        if handle is None:
            break
        found.append(handle)
        if name.startswith(PART):
            break
    return found


def _card_named(nvml: Any, handles: list[Any], name: str) -> Any:
    """The GPU with this number, or whose UUID begins like this; None if no GPU has it, or several."""
    if name.isdecimal():
        return handles[int(name)] if int(name) < len(handles) else None
    named = [handle for handle in handles if name and text_of(nvml.nvmlDeviceGetUUID(handle)).startswith(name)]
    return named[0] if len(named) == 1 else None


def _part_named(nvml: Any, handles: list[Any], name: str) -> Any:
    """The part of a GPU with this UUID; None if there is none."""
    for handle in handles:
        for index in range(_max_parts(nvml, handle)):
            with contextlib.suppress(Exception):  # parts are numbered with gaps
                part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
                if text_of(nvml.nvmlDeviceGetUUID(part)).startswith(name):
                    return part
    return None


def _max_parts(nvml: Any, handle: Any) -> int:
    try:
        return int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    except Exception:  # not supported by this GPU
        return 0


def text_of(answer: str | bytes) -> str:
    """An answer of the driver as text; older versions answer in bytes."""
    return answer if isinstance(answer, str) else answer.decode()


def _by_driver(nvml: Any, index: int) -> Card:
    nvml.nvmlInit()
    try:
        handle = visible_cards(nvml)[index]
        memory, name = nvml.nvmlDeviceGetMemoryInfo(handle), nvml.nvmlDeviceGetName(handle)
        has_display, has_bf16 = _has_display(nvml, handle), _has_bf16(nvml, handle)
    finally:
        nvml.nvmlShutdown()
    total_gb, free_gb = memory.total / BYTES_PER_GB, memory.free / BYTES_PER_GB
    if has_display:
        free_gb = min(free_gb, total_gb - TAKEN_BY_DISPLAY_GB)
    return Card("cuda", total_gb, free_gb, text_of(name), has_bf16)


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
