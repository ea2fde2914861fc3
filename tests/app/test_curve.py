"""Curves of any length in a bounded number of points."""

import math
import time

from ed2.app.snapshot import MAX_BUCKETS, Curve


def test_a_short_curve_is_kept_as_it_is() -> None:
    curve = Curve()
    for step in range(5):
        curve.add(step, step * 2.0)
    assert [(p.step, p.mean, p.low, p.high) for p in curve.thinned().points] == [
        (n, 2.0 * n, 2.0 * n, 2.0 * n) for n in range(5)
    ]


def test_a_hundred_thousand_points_stay_within_about_a_thousand_and_lose_no_extreme() -> None:
    curve = Curve()
    began = time.perf_counter()
    for step in range(100_000):
        curve.add(step, 9.0 if step == 31_234 else step / 1e5)
    assert time.perf_counter() - began < 2  # 0.1 s on an idle machine
    points = curve.thinned().points
    assert MAX_BUCKETS / 2 <= len(points) <= MAX_BUCKETS
    assert max(p.high for p in points) == 9.0
    assert points[-1].step == 99_999
    assert curve.thinned().values_per_point == 128
    assert math.isclose(sum(p.mean for p in points) / len(points), 0.5, rel_tol=0.01)


def test_values_that_are_not_finite_are_left_out() -> None:
    curve = Curve()
    for value in (1.0, float("nan"), float("inf"), 2.0):
        curve.add(1, value)
    assert [p.mean for p in curve.thinned().points] == [1.0, 2.0]
