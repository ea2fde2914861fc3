"""Hundreds of steps take no more memory, threads or files than the first; the long form is scripts/torture soak."""

from pathlib import Path

import pytest

from tests.torture.soak import Soak, soak

STEPS, WARM, EVERY = 120, 60, 10
MB_IN_60_STEPS = 4.0
"""The allocator's own noise; a batch or an activation kept at each step would be tens of MB."""


@pytest.mark.slow
def test_a_longer_run_uses_no_more_memory_threads_or_files(tmp_path: Path, sd1: Path, images: Path) -> None:
    watch = Soak(EVERY)
    assert soak(tmp_path, sd1, images, STEPS, watch) == STEPS
    read = [reading for reading in watch.readings if reading.step >= WARM]
    assert len(read) == 1 + (STEPS - WARM) // EVERY
    assert watch.growth(WARM) * (STEPS - WARM) / 10_000 < MB_IN_60_STEPS
    assert watch.is_constant(WARM), read
