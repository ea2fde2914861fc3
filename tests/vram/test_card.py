"""What is free on a GPU, as its driver says, with and without a screen."""

import sys
from types import SimpleNamespace

import pytest

from ed2.vram.card import TAKEN_BY_DISPLAY_GB, card_for, count_cards

GB = 2**30


def driver(free_gb: float, display: object) -> SimpleNamespace:
    def display_active(_: object) -> int:
        if isinstance(display, Exception):
            raise display
        return int(bool(display))

    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=12 * GB, free=int(free_gb * GB)),
        nvmlDeviceGetName=lambda _: "A GPU",
        nvmlDeviceGetDisplayActive=display_active,
    )


@pytest.mark.parametrize(
    ("free_gb", "display", "planned"),
    [
        (11.8, True, 12 - TAKEN_BY_DISPLAY_GB),
        (10.5, True, 10.5),
        (11.8, False, 11.8),
        (11.8, RuntimeError("Not Supported"), 11.8),
    ],
)
def test_a_gpu_that_drives_a_screen_keeps_a_larger_share(
    monkeypatch: pytest.MonkeyPatch, free_gb: float, display: object, planned: float
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(free_gb, display))
    card = card_for("auto")
    assert (card.name, card.total_gb) == ("A GPU", 12)
    assert card.free_gb == pytest.approx(planned)


UUIDS = ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-8932aaaa-0000", "GPU-51b2a318-3b6c-c2e9-f6f9-0f4f12c7c3b1"]
PARTS = {0: "MIG-cd5fd0b0-1f2c-5ac4-98d7-1e4a5d1e8a6f", 2: "MIG-6b6a9ae9-7f3e-5b3a-9d52-5c8d8c9f0a11"}


def of_three_gpus(handle: object) -> str:
    return PARTS[int(str(handle)[4:])] if str(handle).startswith("part") else UUIDS[int(str(handle))]


def part(card: int, index: int) -> str:
    if card != 1 or index not in PARTS:
        raise RuntimeError("Not Found")
    return f"part{index}"


def driver_of_three() -> SimpleNamespace:
    """Three GPUs, the second of which is in parts."""
    found = driver(11, False)
    found.nvmlDeviceGetCount = lambda: 3
    found.nvmlDeviceGetUUID = of_three_gpus
    found.nvmlDeviceGetName = lambda handle: f"GPU {handle}"
    found.nvmlDeviceGetMaxMigDeviceCount = lambda card: 4
    found.nvmlDeviceGetMigDeviceHandleByIndex = part
    return found


@pytest.mark.parametrize(
    ("visible", "count", "first"),
    [
        ("2,0", 2, "GPU 2"),
        (f"{UUIDS[2]},{UUIDS[0]}", 2, "GPU 2"),
        ("GPU-8932f,GPU-51", 2, "GPU 0"),
        ("GPU-8932", 0, "the CPU"),  # two begin so
        (f"{UUIDS[1]},GPU-none,{UUIDS[0]}", 1, "GPU 1"),
        (PARTS[2], 1, "GPU part2"),
        (f"{PARTS[0]},{PARTS[2]}", 1, "GPU part0"),
        ("0,-1,2", 1, "GPU 0"),
        ("0,7", 1, "GPU 0"),
        ("", 0, "the CPU"),
        ("-1", 0, "the CPU"),
    ],
)
def test_gpus_are_counted_as_a_program_started_from_here_sees_them(
    monkeypatch: pytest.MonkeyPatch, visible: str, count: int, first: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver_of_three())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert (count_cards(), card_for("auto").name) == (count, first)
