import time
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ed2.data.buckets import nearest
from ed2.data.epoch import is_same_every_epoch, plan_epoch, steps_per_epoch
from ed2.data.example import Example

SIZES = ((512, 512), (640, 480), (480, 640), (1600, 500))


def examples_of(picks: list[tuple[int, float]]) -> list[Example]:
    made = []
    for number, (size, multiply) in enumerate(picks):
        name = f"{number}.png"
        bucket = nearest(SIZES[size], 512)
        made.append(Example(Path(name), 0, name, name, SIZES[size], bucket, multiply=multiply))
    return made


many = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 1.0, 2.0, 3.0])), max_size=60)
with_fractions = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 4)), max_size=60)
numbers = st.integers(0, 10**9)
small = st.integers(1, 7)


@settings(max_examples=50)
@given(many, numbers, st.integers(0, 50), small, small)
def test_every_picture_is_shown_as_often_as_its_multiplier_says(
    picks: list[tuple[int, float]], seed: int, epoch: int, batch_size: int, grad_accum: int
) -> None:
    examples = examples_of(picks)
    plan = plan_epoch(examples, seed=seed, epoch=epoch, batch_size=batch_size, grad_accum=grad_accum)
    visits = [visit for group in plan for batch in group for visit in batch.visits]
    expected = [(place, repeat) for place, (_, times) in enumerate(picks) for repeat in range(int(times))]
    assert sorted(visits) == expected


@settings(max_examples=50)
@given(with_fractions, numbers, small, small)
def test_batches_hold_one_bucket_and_only_the_last_of_a_bucket_is_short(
    picks: list[tuple[int, float]], seed: int, batch_size: int, grad_accum: int
) -> None:
    examples = examples_of(picks)
    plan = plan_epoch(examples, seed=seed, epoch=1, batch_size=batch_size, grad_accum=grad_accum)
    batches = [batch for group in plan for batch in group]
    for batch in batches:
        assert {examples[visit.example].bucket for visit in batch.visits} == {batch.bucket}
        assert 1 <= len(batch.visits) <= batch_size
    short = Counter(batch.bucket for batch in batches if len(batch.visits) < batch_size)
    assert all(count == 1 for count in short.values())
    assert all(len(group) == grad_accum for group in plan[:-1])
    assert not plan or 1 <= len(plan[-1]) <= grad_accum


@settings(max_examples=50)
@given(with_fractions, numbers, st.integers(0, 5), small, small)
def test_the_number_of_steps_is_known_without_dealing(
    picks: list[tuple[int, float]], seed: int, epoch: int, batch_size: int, grad_accum: int
) -> None:
    options = {"seed": seed, "epoch": epoch, "batch_size": batch_size, "grad_accum": grad_accum}
    examples = examples_of(picks)
    assert steps_per_epoch(examples, **options) == len(plan_epoch(examples, **options))


@settings(max_examples=30)
@given(with_fractions, numbers, small)
def test_the_same_arguments_give_the_same_plan(picks: list[tuple[int, float]], seed: int, batch_size: int) -> None:
    first, second = (
        plan_epoch(examples_of(picks), seed=seed, epoch=3, batch_size=batch_size, grad_accum=2) for _ in range(2)
    )
    assert first == second


def test_seed_and_epoch_change_the_order() -> None:
    examples = examples_of([(0, 1.0)] * 50)
    plans = {
        plan_epoch(examples, seed=seed, epoch=epoch, batch_size=4, grad_accum=1)
        for seed, epoch in ((1, 0), (1, 1), (2, 0))
    }
    assert len(plans) == 3


def test_the_plan_is_the_same_on_every_machine() -> None:
    examples = examples_of([(0, 1.0), (0, 1.0), (1, 2.0), (0, 1.5)])
    plan = plan_epoch(examples, seed=555, epoch=0, batch_size=2, grad_accum=2)
    shown = [[[tuple(visit) for visit in batch.visits] for batch in group] for group in plan]
    assert shown == [[[(0, 0), (1, 0)], [(3, 0), (3, 1)]], [[(2, 1), (2, 0)]]]


def test_a_fraction_is_met_on_average_wherever_the_picture_stands() -> None:
    examples = examples_of([(0, 0.1)] * 50 + [(0, 1.25)] * 20)
    seen = Counter[int]()
    for epoch in range(400):
        plan = plan_epoch(examples, seed=1, epoch=epoch, batch_size=4, grad_accum=1)
        visits = [visit.example for group in plan for batch in group for visit in batch.visits]
        assert len(visits) == 30
        seen.update(visits)
    rates = [seen[place] / 400 for place in range(70)]
    assert all(abs(rate - 0.1) < 0.075 for rate in rates[:50])
    assert all(abs(rate - 1.25) < 0.11 for rate in rates[50:])
    fifths = [sum(rates[start : start + 10]) / 10 for start in range(0, 50, 10)]
    assert all(abs(rate - 0.1) < 0.025 for rate in fifths)


def test_short_batches_fall_on_other_pictures_in_other_epochs() -> None:
    examples = examples_of([(0, 1.0)] * 9)
    lonely = set()
    for epoch in range(30):
        plan = plan_epoch(examples, seed=1, epoch=epoch, batch_size=4, grad_accum=1)
        lonely |= {group[0].visits[0].example for group in plan if len(group[0].visits) == 1}
    assert len(lonely) > 5


def test_one_picture_makes_one_step() -> None:
    plan = plan_epoch(examples_of([(0, 1.0)]), seed=1, epoch=0, batch_size=8, grad_accum=4)
    assert len(plan) == 1 and len(plan[0]) == 1


def test_only_fractions_make_epochs_differ() -> None:
    assert is_same_every_epoch(examples_of([(0, 2.0), (1, 0.0)]))
    assert not is_same_every_epoch(examples_of([(0, 2.5)]))


def test_twenty_thousand_pictures_are_dealt_well_under_a_second() -> None:
    examples = examples_of([(number % 4, 1.0) for number in range(20_000)])
    start = time.process_time()
    plan_epoch(examples, seed=1, epoch=0, batch_size=4, grad_accum=2)
    assert time.process_time() - start < 0.6
