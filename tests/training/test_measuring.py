"""A measurement that several processes share: real messages, and shares that are easy to add up."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ed2.data.example import Example, Finding
from ed2.ranks.group import Follower, Leader
from ed2.training.measuring import LossSums, OnProblem, SharedMeter, own_share
from ed2.training.shared_update import OutOfMemoryElsewhereError
from tests.ranks.threads import in_each

Losses = dict[str, float] | None
BROKEN = Finding("b.png", "it cannot be read", file=Path("b.png"))


def measured(work: Callable[[int, OnProblem], LossSums | None]) -> tuple[Losses, list[Finding]]:
    """What rank 0 of three learns if each measures its own."""
    found: list[Finding] = []

    def take_part(ranks: Leader | Follower) -> Losses:
        meter = SharedMeter(
            name="meter",
            measure=lambda at_once, on_problem: work(ranks.rank, on_problem),
            batch_size=4,
            ranks=ranks,
            should_stop=lambda: False,
            on_problem=found.append,
        )
        if isinstance(ranks, Follower):
            ranks.on_ask = lambda what, request: meter.answer(request)
        losses = meter.losses() if isinstance(ranks, Leader) else None
        ranks.exchange("next", {})
        return losses

    return in_each(3, take_part)[0], found


def test_losses_of_all_processes_are_added_up_and_their_findings_told() -> None:
    def work(rank: int, on_problem: OnProblem) -> LossSums:
        if rank == 2:
            on_problem(BROKEN)
        return {"curve": (1.0 + rank, 1 + rank), f"image {rank}": (0.5 * rank, 1), "nothing": (0.0, 0)}

    losses, found = measured(work)
    assert losses == {"curve": 1.0, "image 0": 0.0, "image 1": 0.5, "image 2": 1.0}
    assert found == [BROKEN]


def test_one_process_out_of_memory_is_known_to_the_first() -> None:
    def work(rank: int, on_problem: OnProblem) -> LossSums:
        if rank == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return {}

    with pytest.raises(OutOfMemoryElsewhereError):
        measured(work)


def test_each_image_is_in_one_share_and_the_buckets_in_all() -> None:
    buckets = [(64, 64)] * 7 + [(96, 64)] * 5
    examples = [Example(Path(f"{n}.png"), 0, f"{n}.png", "", (9, 9), bucket) for n, bucket in enumerate(buckets)]

    def share(ranks: Leader | Follower) -> list[Example]:
        return list(own_share(examples, ranks))

    shares = in_each(3, share)
    assert sorted(example.name for own in shares for example in own) == sorted(example.name for example in examples)
    for own in shares:
        assert len(own) == 4
        assert sum(example.bucket == (96, 64) for example in own) in (1, 2)
