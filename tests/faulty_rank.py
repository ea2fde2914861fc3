"""Faults that one process of a run meets at its third batch or update."""

import os
import signal
import time

import torch

from ed2.data.batch import Batch
from ed2.training import shared_update
from ed2.training.objective import Objective
from ed2.training.optimizers import Optimizers
from ed2.training.shards import Shards

THIRD = 3
HANGING, HANGING_SECONDS = "hanging", 1000


def arrange(fault: str) -> None:
    """Let this process meet the fault of this name, nothing if it is empty.

    There are memory, error, kill, hang, nan, update and tensor.

    Two are no faults: in `unsharded` it keeps the whole optimizer state and updates all weights; in `often` it sums
    small parts of the gradients.
    """
    if "often" in fault:
        shared_update.SUM_NUMBERS = 5000
        fault = fault.removeprefix("often").strip()
    if fault == "update":
        _at_third_update()
    elif fault == "tensor":
        _at_third_update_of_a_tensor()
    elif fault == "unsharded":
        Shards.deal = classmethod(lambda cls, parameters, rank, size: cls())  # type: ignore[method-assign, assignment]
    elif fault:
        _at_third_batch(fault)


def _at_third_batch(fault: str) -> None:
    compute, count = Objective.__call__, 0

    def faulty(self: Objective, batch: Batch) -> torch.Tensor:
        nonlocal count
        count += 1
        if fault == "memory" and len(batch) > 1 and count >= THIRD:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if fault == "error" and count == THIRD:
            raise ValueError("something is broken")
        losses = compute(self, batch)
        if fault == "kill" and count == THIRD:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang" and count == THIRD:
            print(HANGING, flush=True)
            time.sleep(HANGING_SECONDS)
        return losses * float("nan") if fault == "nan" and count == THIRD else losses

    Objective.__call__ = faulty  # type: ignore[method-assign]


def _at_third_update() -> None:
    step, count = Optimizers.step, 0

    def faulty(self: Optimizers) -> None:
        nonlocal count
        count += 1
        if count == THIRD:
            raise ValueError("the update is broken")
        step(self)

    Optimizers.step = faulty  # type: ignore[method-assign]


def _at_third_update_of_a_tensor() -> None:
    step, first, count = Optimizers.step_one, list[torch.Tensor](), 0

    def faulty(self: Optimizers, network: str, parameter: torch.Tensor, *rest: torch.Tensor) -> None:
        nonlocal count
        first.append(parameter)
        if parameter is first[0]:
            count += 1
        if parameter is first[0] and count == THIRD:
            raise ValueError("the update is broken")
        step(self, network, parameter, *rest)

    Optimizers.step_one = faulty  # type: ignore[method-assign, assignment]
