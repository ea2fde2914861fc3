import time
from collections import Counter
from dataclasses import replace
from math import ceil, floor
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ed2.data.buckets import nearest_bucket
from ed2.data.epoch import EpochPlan, EpochPlanner, PlannedBatch, Visit
from ed2.data.example import Example
from tests.data.planning import plan_epoch

SIZES = ((512, 512), (640, 480), (480, 640), (1600, 500))


def examples_of(picks: list[tuple[int, float]], ids: list[str] | None = None) -> list[Example]:
    made = []
    for number, (size, multiply) in enumerate(picks):
        name = f"{number}.png"
        bucket = nearest_bucket(SIZES[size], 512)
        batch_id = ids[number] if ids else ""
        made.append(Example(Path(name), 0, name, name, SIZES[size], bucket, multiply=multiply, batch_id=batch_id))
    return made


def options(**changes: int) -> dict[str, int]:
    return {"seed": 1, "batch_size": 4, "grad_accum": 1, **changes}


def visits_of(planner: EpochPlanner, epoch: int) -> list[Visit]:
    return [visit for group in planner.plan(epoch) for batch in group for visit in batch.visits]


many = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 1.0, 2.0, 3.0])), max_size=60)
with_fractions = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 4)), max_size=60)
numbers = st.integers(0, 10**9)
small = st.integers(1, 7)


@settings(max_examples=50)
@given(many, numbers, st.integers(0, 50), small, small)
def test_every_image_is_shown_as_often_as_its_multiplier_says(
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
def test_the_number_of_steps_is_known_without_planning(
    picks: list[tuple[int, float]], seed: int, epoch: int, batch_size: int, grad_accum: int
) -> None:
    planner = EpochPlanner(examples_of(picks), seed=seed, batch_size=batch_size, grad_accum=grad_accum)
    assert planner.steps(epoch) == len(planner.plan(epoch))


@settings(max_examples=50)
@given(with_fractions, numbers, st.integers(0, 30), small, small)
def test_an_epoch_shows_every_image_its_multiplier_rounded_up_or_down(
    picks: list[tuple[int, float]], seed: int, epoch: int, batch_size: int, grad_accum: int
) -> None:
    planner = EpochPlanner(examples_of(picks), seed=seed, batch_size=batch_size, grad_accum=grad_accum)
    visits = visits_of(planner, epoch)
    assert len(set(visits)) == len(visits)
    shown = Counter(visit.example for visit in visits)
    assert all(shown[place] in (floor(times), ceil(times)) for place, (_, times) in enumerate(picks))


@settings(max_examples=30)
@given(with_fractions, numbers, small)
def test_an_epoch_has_the_same_plan_directly_and_after_those_before(
    picks: list[tuple[int, float]], seed: int, batch_size: int
) -> None:
    walked = EpochPlanner(examples_of(picks), seed=seed, batch_size=batch_size, grad_accum=2)
    for epoch in range(4):
        direct = plan_epoch(examples_of(picks), seed=seed, epoch=epoch, batch_size=batch_size, grad_accum=2)
        assert walked.plan(epoch) == direct


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
    assert shown == [[[(1, 0)], [(3, 0), (0, 0)]], [[(2, 0), (2, 1)]]]


@settings(max_examples=50)
@given(st.lists(st.floats(0, 3), min_size=1, max_size=20), numbers, st.integers(1, 12))
def test_over_several_epochs_every_image_is_shown_as_often_as_its_fraction_says(
    multipliers: list[float], seed: int, epochs: int
) -> None:
    planner = EpochPlanner(examples_of([(0, m) for m in multipliers]), seed=seed, batch_size=4, grad_accum=1)
    seen = Counter(visit.example for epoch in range(epochs) for visit in visits_of(planner, epoch))
    for place, multiplier in enumerate(multipliers):
        assert abs(seen[place] - multiplier * epochs) < 1 + 1e-9


def test_a_tenth_is_one_showing_in_ten_epochs_for_every_image_of_the_folder() -> None:
    planner = EpochPlanner(examples_of([(0, 0.1)] * 50 + [(0, 1.25)] * 20), seed=1, batch_size=4, grad_accum=1)
    shown = [Counter(visit.example for visit in visits_of(planner, epoch)) for epoch in range(40)]
    assert all(sum(seen.values()) == 30 for seen in shown)
    for start in range(0, 40, 10):
        seen = sum(shown[start : start + 10], Counter())
        assert all(seen[place] == 1 for place in range(50))
    assert all(sum(seen[place] for seen in shown[:4]) == 5 for place in range(50, 70))


def test_no_position_in_a_folder_is_favoured() -> None:
    first = Counter[int]()
    for seed in range(400):
        first.update(v.example for v in visits_of(EpochPlanner(examples_of([(0, 0.1)] * 50), **options(seed=seed)), 0))
    fifths = [sum(first[place] for place in range(start, start + 10)) / 4000 for start in range(0, 50, 10)]
    assert all(abs(rate - 0.1) < 0.02 for rate in fifths)


def test_each_folder_gets_its_share_of_every_epoch() -> None:
    examples = [replace(e, name=f"{'ab'[n % 2]}/{n}.png") for n, e in enumerate(examples_of([(0, 0.25)] * 80))]
    for epoch in range(8):
        seen = Counter(visit.example % 2 for visit in visits_of(EpochPlanner(examples, **options()), epoch))
        assert seen == {0: 10, 1: 10}


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "", "a", "b", "c"])), min_size=1, max_size=50),
    numbers,
    small,
    small,
)
def test_images_of_one_batch_id_share_batches_and_as_few_steps_as_possible(
    picks: list[tuple[int, str]], seed: int, batch_size: int, grad_accum: int
) -> None:
    ids = [batch_id for _, batch_id in picks]
    planner = EpochPlanner(
        examples_of([(size, 1.0) for size, _ in picks], ids), seed=seed, batch_size=batch_size, grad_accum=grad_accum
    )
    plan = planner.plan(0)
    assert planner.steps(0) == len(plan)
    assert sorted(v.example for group in plan for batch in group for v in batch.visits) == list(range(len(picks)))
    steps_of: dict[str, list[int]] = {}
    for step, group in enumerate(plan):
        assert 1 <= len(group) <= grad_accum
        for batch in group:
            (batch_id,) = {ids[visit.example] for visit in batch.visits}
            steps_of.setdefault(batch_id, []).append(step)
    for batch_id in set(ids) - {""}:
        assert len(set(steps_of[batch_id])) == -(-len(steps_of[batch_id]) // grad_accum)


def test_batches_without_an_id_fill_the_steps_of_those_with_one() -> None:
    planner = EpochPlanner(examples_of([(0, 1.0)] * 12, ["x"] * 4 + [""] * 8), seed=1, batch_size=2, grad_accum=3)
    assert sorted(len(group) for group in planner.plan(0)) == [3, 3]


@settings(max_examples=50)
@given(many, numbers, st.integers(2, 5))
def test_of_two_steps_of_several_batches_the_first_has_the_largest_and_both_the_same_as_without_accumulation(
    picks: list[tuple[int, float]], seed: int, grad_accum: int
) -> None:
    def plan(accumulated: int) -> EpochPlan:
        return plan_epoch(examples_of(picks), seed=seed, epoch=1, batch_size=2, grad_accum=accumulated)

    def pixels(batch: PlannedBatch) -> int:
        return batch.bucket[0] * batch.bucket[1] * len(batch.visits)

    alone, together = [batch for (batch,) in plan(1)], plan(grad_accum)
    for first in range(0, len(together), 2):
        pair = [batch for step in together[first : first + 2] for batch in step]
        begin = first * grad_accum
        assert sorted(pair) == sorted(alone[begin : begin + 2 * grad_accum])
        if len(pair) == 2 * grad_accum:
            assert min(map(pixels, together[first])) >= max(map(pixels, together[first + 1]))
        else:
            assert pair == alone[begin:]


def test_an_epoch_may_show_nothing() -> None:
    planner = EpochPlanner(examples_of([(0, 0.25)]), **options())
    assert sorted(planner.steps(epoch) for epoch in range(4)) == [0, 0, 0, 1]


def test_short_batches_fall_on_other_images_in_other_epochs() -> None:
    examples = examples_of([(0, 1.0)] * 9)
    lonely = set()
    for epoch in range(30):
        plan = plan_epoch(examples, seed=1, epoch=epoch, batch_size=4, grad_accum=1)
        lonely |= {group[0].visits[0].example for group in plan if len(group[0].visits) == 1}
    assert len(lonely) > 5


def test_one_image_makes_one_step() -> None:
    plan = plan_epoch(examples_of([(0, 1.0)]), seed=1, epoch=0, batch_size=8, grad_accum=4)
    assert len(plan) == 1 and len(plan[0]) == 1


def test_only_fractions_make_epochs_differ() -> None:
    assert EpochPlanner(examples_of([(0, 2.0), (1, 0.0)]), **options()).is_same_every_epoch
    assert not EpochPlanner(examples_of([(0, 2.5)]), **options()).is_same_every_epoch


def test_twenty_thousand_images_are_planned_well_under_a_second() -> None:
    ids = ["" if number % 3 else f"id {number % 700}" for number in range(20_000)]
    examples = examples_of([(number % 4, (1.0, 0.3)[number % 2]) for number in range(20_000)], ids)
    start = time.process_time()
    planner = EpochPlanner(examples, seed=1, batch_size=4, grad_accum=2)
    planner.plan(0)
    assert time.process_time() - start < 0.6
    start = time.process_time()
    assert all(planner.steps(epoch) for epoch in range(20))
    assert time.process_time() - start < 0.6
