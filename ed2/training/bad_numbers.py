"""Numbers that are not finite: their step is left out and told, three in a row end the run, and no save holds any."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ed2.data.loader import Batch
from ed2.errors import DivergedError, UnusableWeightsError
from ed2.events import Warned
from ed2.models.base import trained_parts
from ed2.training.state import Run

MAX_BAD_STEPS = 3
"""Steps in a row with numbers that are not finite, after which a run gives up."""
SMALLEST_SCALE = 1.0
"""While the fp16 scaler is above this, an overflow is its way to find its scale and no fault."""
NAMES_SHOWN = 12


def report_skipped_step(run: Run, batches: Sequence[Batch], losses: Tensor) -> None:
    """Tell of a step that was left out since its losses (N,), or its gradients, are not finite.

    Raises:
        DivergedError: it was the third in a row.
    """
    run.metrics.skipped_steps += 1
    finite = torch.isfinite(losses).tolist()
    if all(finite):
        run.metrics.add(losses)
        if run.precision.scaler.is_enabled() and run.precision.scale > SMALLEST_SCALE:
            return  # an overflow of the gradient, answered by a lower scale
    run.state.bad_steps += 1
    names = [name for batch in batches for name in batch.names]
    culprits = [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]
    step = run.state.step + 1
    run.bus.emit(Warned(step, f"Step {step} was left out: {_described(names, culprits)}"))
    if run.state.bad_steps >= MAX_BAD_STEPS:
        raise DivergedError(
            f"{MAX_BAD_STEPS} steps in a row gave numbers that are not finite", "the model has diverged."
        )


def require_savable(run: Run) -> None:
    """See that the weights are worth to be saved.

    Raises:
        UnusableWeightsError: some are not finite, or the last update was cut short.
    """
    step = run.state.step
    parameters = [p for part in trained_parts(run.model).values() for p in part.parameters().values()]
    if not bool(torch.stack([torch.isfinite(p).all() for p in parameters]).all()):
        fix = "The checkpoint before is sound. Lower the learning rate."
        raise UnusableWeightsError(f"Step {step} is not saved", "the weights hold numbers that are not finite.", fix)


def _described(names: Sequence[str], culprits: Sequence[str]) -> str:
    if culprits:
        return f"the loss of {_listed(culprits)} is not finite."
    return f"its gradient is not finite. Its images: {_listed(names)}."


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
