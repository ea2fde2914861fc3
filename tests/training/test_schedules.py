"""Learning rates against values worked out by hand from the papers."""

import math

import pytest

from ed2.registry import SCHEDULES
from ed2.training.schedules import Schedule, constant, cosine, linear, polynomial


@pytest.mark.parametrize(
    ("name", "quarter", "half"),
    [
        ("constant", 1.0, 1.0),
        ("linear", 0.75, 0.5),
        ("cosine", (2 + math.sqrt(2)) / 4, 0.5),
        ("polynomial", 0.75**0.9, 0.5**0.9),
    ],
)
def test_curves_have_the_values_of_their_papers(name: str, quarter: float, half: float) -> None:
    curve = SCHEDULES.load(name)
    assert curve(0.0) == 1
    assert curve(0.25) == pytest.approx(quarter)
    assert curve(0.5) == pytest.approx(half)
    assert curve(1.0) == pytest.approx(1.0 if name == "constant" else 0.0, abs=1e-12)


def test_the_warm_up_rises_in_equal_steps_and_wastes_no_update_at_zero() -> None:
    schedule = Schedule(constant, warmup_steps=4, decay_steps=10)
    assert [schedule(update) for update in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("curve", [linear, cosine, polynomial])
def test_a_falling_rate_reaches_zero_where_training_ends_and_stays_there(curve) -> None:
    schedule = Schedule(curve, warmup_steps=10, decay_steps=100)
    factors = [schedule(update) for update in range(130)]
    assert factors[10] == 1
    assert factors[10:101] == sorted(factors[10:101], reverse=True)
    assert 0 < factors[99] < 0.02
    assert all(factor == pytest.approx(0, abs=1e-12) for factor in factors[100:])


def test_a_warm_up_as_long_as_the_run_leaves_no_decay() -> None:
    schedule = Schedule(cosine, warmup_steps=5, decay_steps=5)
    assert schedule(4) == 1
    assert schedule(7) == pytest.approx(0)
