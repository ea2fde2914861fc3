"""The batches of a step are dealt so that few processes wait."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from ed2.data.buckets import bucket_sizes
from ed2.data.dealing import cost, deal
from ed2.data.epoch import PlannedBatch, Visit
from scripts.rank_plan import idle_of_epoch, photos

COUNTS = some.lists(some.tuples(some.sampled_from(bucket_sizes(512)), some.integers(1, 6)), min_size=1, max_size=12)


def batches_of(counts: list[tuple[tuple[int, int], int]]) -> list[PlannedBatch]:
    return [
        PlannedBatch(bucket, tuple(Visit(100 * number + place, 0) for place in range(count)))
        for number, (bucket, count) in enumerate(counts)
    ]


@given(COUNTS, some.integers(1, 8))
@settings(deadline=None)
def test_every_image_is_dealt_once_and_in_order(counts: list[tuple[tuple[int, int], int]], size: int) -> None:
    batches = batches_of(counts)
    dealt = deal(batches, size)
    assert [visit for batch, _ in dealt for visit in batch.visits] == [v for batch in batches for v in batch.visits]
    assert all(0 <= rank < size for _, rank in dealt)
    assert deal(batches, size) == dealt


@given(some.lists(some.tuples(some.sampled_from(bucket_sizes(512)), some.integers(1, 6)), min_size=1, max_size=4))
@settings(deadline=None)
def test_one_each_gives_no_process_a_second_batch(counts: list[tuple[tuple[int, int], int]]) -> None:
    ranks = [rank for _, rank in deal(batches_of(counts), 4, one_each=True)]
    assert len(ranks) == len(set(ranks))


def test_a_full_step_stays_as_planned_and_a_short_one_is_cut() -> None:
    full = batches_of([((512, 512), 4), ((640, 384), 4), ((576, 448), 4)])
    assert [batch for batch, _ in deal(full, 3)] == full
    assert sorted(rank for _, rank in deal(full, 3)) == [0, 1, 2]
    short = deal(batches_of([((512, 512), 4)]), 4)
    assert [(len(batch.visits), rank) for batch, rank in short] == [(1, 0), (1, 1), (1, 2), (1, 3)]


def test_one_process_gets_everything_as_it_is() -> None:
    batches = batches_of([((512, 512), 4), ((640, 384), 1)])
    assert deal(batches, 1) == [(batches[0], 0), (batches[1], 0)]
    assert cost(batches[1]) == 640 * 384


@pytest.mark.parametrize(("resolution", "most"), [(512, 0.02), (768, 0.015), (1024, 0.015)])
def test_eight_processes_wait_little_on_photos_of_many_shapes(resolution: int, most: float) -> None:
    assert idle_of_epoch(photos(20_000, resolution), batch_size=4, size=8) < most
