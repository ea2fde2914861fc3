"""What is said while images are read."""

from ed2.app.images.scanning import Pace


def test_the_time_that_is_left_is_told_by_the_pace_so_far() -> None:
    seconds = iter([0.0, 30.0, 40.0])
    pace = Pace(lambda: next(seconds))
    assert pace.told(1_001, 20_000) == "image 1,001 of 20,000"
    assert pace.told(2_001, 20_000) == "image 2,001 of 20,000, about 9 min 0 s left"
    assert pace.told(20_000, 20_000) == "image 20,000 of 20,000"
