"""What is said while images are read."""

from ed2.app.images.scanning import TimeLeft


def test_the_time_left_follows_from_the_speed_so_far() -> None:
    seconds = iter([0.0, 30.0, 40.0])
    time_left = TimeLeft(lambda: next(seconds))
    assert time_left.images(1_001, 20_000) == "image 1,001 of 20,000"
    assert time_left.images(2_001, 20_000) == "image 2,001 of 20,000, about 9 min left"
    assert time_left.images(20_000, 20_000) == "image 20,000 of 20,000"
