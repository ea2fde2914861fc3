"""The overhead learned from readings, with given numbers."""

import pytest

from ed2.vram.overhead import KEPT, Reading, overhead_from


def test_one_reading_gives_its_own_figures_and_a_narrow_range() -> None:
    known = overhead_from([Reading(planned_gb=10.0, allocated_gb=10.5, reserved_gb=11.0, context_gb=0.6)])
    assert known is not None and known.is_measured
    low, expected, high = (r * known.allocated * 10 + c for r, c in zip(known.reserved, known.context_gb, strict=True))
    assert expected == pytest.approx(11.6)
    assert (low, high) == (pytest.approx(11.6 * 0.98), pytest.approx(11.6 * 1.02))


def test_the_range_holds_every_reading_that_counts_and_the_middle_is_the_median() -> None:
    readings = [Reading(10.0, 9.5 + n / 10, 10.0 + n / 10, 0.5) for n in range(KEPT)]
    known = overhead_from([Reading(10.0, 18.0, 19.0, 3.0), *readings])  # the oldest of six no longer counts
    assert known is not None
    totals = [reading.reserved_gb + 0.5 for reading in readings]
    low, expected, high = (r * known.allocated * 10 + c for r, c in zip(known.reserved, known.context_gb, strict=True))
    assert low <= min(totals) and max(totals) <= high
    assert expected == pytest.approx(sorted(totals)[KEPT // 2])


def test_without_a_context_from_the_driver_the_assumed_one_stays() -> None:
    known = overhead_from([Reading(10.0, 10.0, 10.5)])
    assert known is not None and known.context_gb == (0.35, 0.5, 1.0)


@pytest.mark.parametrize("reading", [Reading(10.0, 2.0, 3.0), Reading(10.0, 40.0, 41.0), Reading(0.0, 1.0, 1.0)])
def test_implausible_readings_are_ignored(reading: Reading) -> None:
    assert overhead_from([reading]) is None
