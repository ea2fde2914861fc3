"""A driver that spills into system memory, in made-up series of steps."""

import pytest

from ed2.app.measured import StepReading, spill_slowdown, spill_text


def series(*parts: tuple[int, float, float]) -> list[StepReading]:
    """Steps as (how many, seconds each, fullness of the card), a little uneven as real ones are."""
    return [
        StepReading(seconds * (1.1 if number % 2 else 0.9), fullness)
        for count, seconds, fullness in parts
        for number in range(count)
    ]


def test_slow_steps_on_a_full_gpu_are_a_spill() -> None:
    factor = spill_slowdown(series((30, 0.5, 0.9), (5, 2.5, 0.99)))
    assert factor == pytest.approx(5, rel=0.2)


def test_a_spill_soon_after_the_start_is_found() -> None:
    assert spill_slowdown(series((3, 0.5, 0.8), (5, 2.5, 0.99))) == pytest.approx(5, rel=0.2)
    after_a_slow_one = series((1, 4.0, 0.5), (4, 0.5, 0.8), (5, 2.5, 0.99))
    assert spill_slowdown(after_a_slow_one) == pytest.approx(5, rel=0.2)


def test_more_memory_than_there_is_comes_from_the_system() -> None:
    assert "holds more memory than the GPU has" in spill_text(series((1, 0.5, 1.02)))
    assert spill_text(series((2, 0.5, 1.0))) == spill_text([]) == ""


@pytest.mark.parametrize(
    "readings",
    [
        series((30, 0.5, 0.9), (5, 2.5, 0.8)),  # slow for another reason: the card has room
        series((35, 0.5, 0.99)),  # full, and as fast as ever
        series((30, 0.5, 0.99), (1, 9.0, 0.99), (4, 0.5, 0.99)),  # one slow step
        series((30, 0.5, 0.99), (5, 0.8, 0.99)),  # another bucket
        series((2, 0.5, 0.9), (5, 2.5, 0.99)),  # too early to tell
        series((5, 0.5, 0.99), (5, 2.5, 0.99)),  # full from the beginning
        series((30, 2.5, 0.9), (5, 0.5, 0.99)),  # faster
        [],
    ],
)
def test_other_slow_steps_are_not_a_spill(readings: list[StepReading]) -> None:
    assert spill_slowdown(readings) is None
