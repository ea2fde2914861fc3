import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ed2.data.buckets import (
    RESOLUTIONS,
    SMALL_RESOLUTIONS,
    bucket_sizes,
    crop_box,
    cropped_share,
    is_beyond_widest_bucket,
    jittered_crop_box,
    nearest_bucket,
    needs_enlarging,
    side_step,
)

ALL = RESOLUTIONS + SMALL_RESOLUTIONS
resolutions = st.sampled_from(ALL)
sides = st.integers(1, 6000)
images = st.tuples(sides, sides)


def test_256_has_the_square_two_wide_sizes_and_their_mirrors() -> None:
    assert bucket_sizes(256) == ((256, 256), (320, 192), (192, 320), (512, 128), (128, 512))


def test_512_has_the_nine_sizes_of_the_contract() -> None:
    wide = [(576, 448), (640, 384), (768, 320), (1024, 256)]
    assert set(bucket_sizes(512)) == {(512, 512), *wide, *((height, width) for width, height in wide)}


@pytest.mark.parametrize(("resolution", "count"), [(256, 5), (512, 9), (768, 13), (64, 5)])
def test_the_number_of_sizes_matches_the_contract(resolution: int, count: int) -> None:
    assert len(bucket_sizes(resolution)) == count


def test_there_are_seventeen_resolutions_and_three_small_ones() -> None:
    assert (len(RESOLUTIONS), SMALL_RESOLUTIONS) == (17, (64, 128, 192))


def test_small_resolutions_have_steps_of_sixteen() -> None:
    assert set(bucket_sizes(64)) >= {(64, 64), (80, 48), (48, 80)}


@pytest.mark.parametrize("resolution", ALL)
def test_every_size_follows_the_rule_of_the_contract(resolution: int) -> None:
    step = 16 if resolution < 256 else 64
    expected = set()
    for short in range(step, resolution + 1, step):
        long = max(side for side in range(step, 64 * 64 * 64, step) if short * side <= resolution**2)
        if short <= long <= 4 * short:
            expected |= {(long, short), (short, long)}
    assert set(bucket_sizes(resolution)) == expected
    assert len(bucket_sizes(resolution)) == len(expected)


def test_another_resolution_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="resolution is 500"):
        bucket_sizes(500)


@given(images, resolutions)
def test_no_size_is_nearer_in_ratio_than_the_one_chosen(size: tuple[int, int], resolution: int) -> None:
    def distance(bucket: tuple[int, int]) -> float:
        return abs(math.log(size[0] / size[1]) - math.log(bucket[0] / bucket[1]))

    chosen = nearest_bucket(size, resolution)
    assert all(distance(chosen) <= distance(other) + 1e-9 for other in bucket_sizes(resolution))


@given(images, resolutions)
def test_a_rotated_image_gets_the_rotated_size(size: tuple[int, int], resolution: int) -> None:
    assert nearest_bucket(size[::-1], resolution) == nearest_bucket(size, resolution)[::-1]


def test_on_a_tie_the_size_that_crops_less_wins() -> None:
    for resolution in ALL:
        for first in bucket_sizes(resolution):
            for second in bucket_sizes(resolution):
                size = (round(1000 * math.sqrt(first[0] * second[0])), round(1000 * math.sqrt(first[1] * second[1])))
                chosen = nearest_bucket(size, resolution)
                assert (
                    cropped_share(size, chosen) <= min(cropped_share(size, first), cropped_share(size, second)) + 1e-5
                )


@given(images, resolutions)
def test_the_crop_has_the_ratio_of_the_bucket_within_a_pixel(size: tuple[int, int], resolution: int) -> None:
    bucket = nearest_bucket(size, resolution)
    left, top, right, bottom = crop_box(size, bucket)
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    width, height = right - left, bottom - top
    assert width == size[0] or height == size[1]
    assert abs(width - height * bucket[0] / bucket[1]) <= 1 or abs(height - width * bucket[1] / bucket[0]) <= 1
    assert abs(left - (size[0] - right)) <= 1 and abs(top - (size[1] - bottom)) <= 1


@given(images, resolutions, st.integers(0, 1000))
def test_a_jittered_crop_stays_inside_and_never_falls_below_the_bucket(
    size: tuple[int, int], resolution: int, seed: int
) -> None:
    bucket = nearest_bucket(size, resolution)
    left, top, right, bottom = jittered_crop_box(size, bucket, np.random.default_rng(seed))
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    width, height = right - left, bottom - top
    full = crop_box(size, bucket)
    assert width >= min(bucket[0], full[2] - full[0]) and height >= min(bucket[1], full[3] - full[1])
    assert width >= (full[2] - full[0]) * 0.96 - 2 and height >= (full[3] - full[1]) * 0.96 - 2
    assert abs(width - height * bucket[0] / bucket[1]) <= 1 or abs(height - width * bucket[1] / bucket[0]) <= 1


@pytest.mark.parametrize("size", [(512, 512), (512, 700), (400, 400), (300, 500)])
def test_an_image_not_larger_than_its_bucket_is_cropped_at_its_centre(size: tuple[int, int]) -> None:
    box = jittered_crop_box(size, (512, 512), np.random.default_rng(1))
    assert box == crop_box(size, (512, 512))


def test_jitter_moves_a_large_image_and_differs_from_visit_to_visit() -> None:
    boxes = {jittered_crop_box((2000, 2000), (512, 512), np.random.default_rng(seed)) for seed in range(20)}
    assert len(boxes) > 15


def test_wider_than_the_widest_is_distinguished_from_equally_wide() -> None:
    assert not is_beyond_widest_bucket((2048, 512), 512)
    assert is_beyond_widest_bucket((2049, 512), 512)
    assert is_beyond_widest_bucket((512, 2049), 512)
    assert nearest_bucket((9000, 512), 512) == (1024, 256)


def test_only_an_image_smaller_than_its_bucket_is_enlarged() -> None:
    assert not needs_enlarging((512, 512), (512, 512))
    assert not needs_enlarging((513, 512), (512, 512))
    assert needs_enlarging((511, 900), (512, 512))


def test_the_step_of_sides_is_16_below_resolution_256_and_64_from_there() -> None:
    assert [side_step(resolution) for resolution in (64, 192, 256, 1536)] == [16, 16, 64, 64]
