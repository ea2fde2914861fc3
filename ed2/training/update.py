"""Updating the weights as a whole: an update for which the memory runs out is finished, or told to be cut short.

Optimizers make their state in the first step, some of them between the updates of two parameters.
"""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from ed2.errors import MemoryFullError
from ed2.models.memory import is_out_of_memory, release_memory
from ed2.training.optimizers import parameters_of
from ed2.training.state import Run

logger = logging.getLogger(__name__)

COUNTS_FIRST = ("torch.", "bitsandbytes.", "transformers.")
"""Modules of the optimizers that change nothing of a parameter before they count its step."""
ONE_BY_ONE = ("bitsandbytes.",)
"""Those that finish one parameter before the next, and need no memory between counting and writing."""

Marks = Mapping[Tensor, float | None]
"""How far each parameter's state was counted, to be compared; None where it has none yet."""


class UpdateCutError(MemoryFullError):
    """An update of which only a part was made."""


def update_weights(run: Run) -> None:
    """Step every optimizer once; from here on `run.is_whole` is False until the step is counted.

    Raises:
        MemoryFullError: the memory does not suffice; where nothing was changed `run.is_whole` is True again.
    """
    for place, optimizer in enumerate(run.optimizers):
        run.is_whole = False
        try:
            step_fully(optimizer, run.objective.device)
        except UpdateCutError:
            raise
        except MemoryFullError:
            run.is_whole = place == 0
            raise


def step_fully(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Step every parameter that has a gradient once, in several goes where the memory does not suffice for one.

    Raises:
        UpdateCutError: some were stepped, others not or in part.
        MemoryFullError: nothing was changed.
    """
    done, in_vain = 0, 0
    while True:
        before = marks_of(optimizer)
        try:
            optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            logger.info("The memory did not suffice for an update of the weights.", exc_info=True)
        else:
            return
        stepped = leave_out_stepped(optimizer, before)
        release_memory(device)
        done, in_vain = done + stepped, 0 if stepped else in_vain + 1
        if in_vain > 1:  # the first failure may have been for memory that was free, and in pieces
            raise _cut_short() if done else MemoryFullError("The memory does not suffice for the optimizer's state")


def marks_of(optimizer: torch.optim.Optimizer) -> Marks:
    """Note how far each parameter was counted.

    PyTorch's own optimizers count in tensors, all in one operation, and one of them is read: the step's flag was just
    waited for. How often a tensor was written (`_version`) tells nothing, since fused kernels do not count it.
    """
    marks: dict[Tensor, float | None] = {}
    common: float | None = None
    for parameter in parameters_of(optimizer):
        step = optimizer.state.get(parameter, {}).get("step")
        if isinstance(step, Tensor):
            common = step = float(step) if common is None else common
        marks[parameter] = step
    return marks


def leave_out_stepped(optimizer: torch.optim.Optimizer, before: Marks) -> int:
    """Drop the gradients of what was stepped since `before`, and states that were begun and not used.

    Returns:
        How many parameters were stepped.

    Raises:
        UpdateCutError: it cannot be told what was changed, or a parameter was changed in part.
    """
    stepped = []
    for parameter, mark in marks_of(optimizer).items():
        if before[parameter] is not None:
            stepped += [parameter] if mark != before[parameter] else []
        elif mark is not None and float(optimizer.state[parameter]["step"]) > 0:
            stepped.append(parameter)
        else:
            optimizer.state.pop(parameter, None)
    module = type(optimizer).__module__
    if not module.startswith(COUNTS_FIRST) or (stepped and not module.startswith(ONE_BY_ONE)):
        raise _cut_short()
    for parameter in stepped:
        parameter.grad = None
    return len(stepped)


def _cut_short() -> UpdateCutError:
    return UpdateCutError("The memory ran out in the middle of an update", "the weights in memory are not used.")
