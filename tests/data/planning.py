"""The plan of one epoch in one call."""

from collections.abc import Sequence

from ed2.data.epoch import EpochPlan, EpochPlanner
from ed2.data.example import Example


def plan_epoch(examples: Sequence[Example], *, seed: int, epoch: int, batch_size: int, grad_accum: int) -> EpochPlan:
    return EpochPlanner(examples, seed=seed, batch_size=batch_size, grad_accum=grad_accum).plan(epoch)
