"""What is free on a GPU, as its driver says, with and without a screen."""

import sys
from types import SimpleNamespace

import pytest

from ed2.vram.card import TAKEN_BY_DISPLAY_GB, card_for

GB = 2**30


def driver(free_gb: float, display: object) -> SimpleNamespace:
    def display_active(_: object) -> int:
        if isinstance(display, Exception):
            raise display
        return int(bool(display))

    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
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
