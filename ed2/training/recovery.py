"""What a step does when it goes wrong: retry with less memory, or skip where a loss or gradient is not finite."""

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor

from ed2.data.batch import Batch, split_batch
from ed2.errors import DivergedError, MemoryFullError, RankError, UnusableWeightsError, UpdateFailedError
from ed2.events import Warned
from ed2.models.base import trained_parameters
from ed2.models.memory import enable_checkpointing, is_out_of_memory, release_memory, uses_checkpointing
from ed2.text import counted, first_of
from ed2.training.shared_update import OutOfMemoryElsewhereError, tell_out_of_memory
from ed2.training.state import Run

logger = logging.getLogger(__name__)

MAX_BAD_STEPS = 3
"""Skipped steps in a row after which a run ends."""
SMALLEST_SCALE = 1.0
"""Above this an overflow under fp16 is how the scaler finds its scale, not an error."""
NAMES_SHOWN = 12

Attempt = Callable[[Run, Sequence[Batch]], tuple[Tensor, bool]]


def retry_on_oom(run: Run, batches: Sequence[Batch], attempt: Attempt) -> tuple[Tensor, bool]:
    """Return what `attempt` gives for `batches`, cut into smaller ones after running out of memory.

    Random draws are keyed by the image, and an image's share of the gradient does not depend on its batch, so an
    attempt with smaller batches gives the same gradient except for rounding. Nothing from a failed attempt is kept.

    Of several processes each attempts its own batches. If one runs out of memory, all retry alike.

    Raises:
        MemoryFullError: out of memory even with one image at a time.
    """
    # A process without a batch takes part with no images.
    own = [batch for batch in batches if not batch.is_elsewhere] or [batches[0].part(0, 0)]
    while True:
        # Cut anew in each attempt: the limit may have been lowered by the one before.
        parts = split_batches(own, run.state.at_once)
        try:
            losses, is_updated = attempt(run, parts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            logger.info("Out of memory at step %d.", run.state.step + 1, exc_info=True)
            is_told = isinstance(error, OutOfMemoryElsewhereError)
        else:
            return losses_of_all(run, batches, losses), is_updated
        run.update.discard()  # not inside `except`: there the error still refers to the tensors of the attempt
        # The allocator keeps freed blocks in sizes that smaller batches may not fit.
        release_memory(run.objective.device)
        if not is_told:
            tell_out_of_memory(run.ranks)
        reduce_memory(run, max(map(len, split_batches(batches, run.state.at_once))))


def losses_of_all(run: Run, batches: Sequence[Batch], losses: Tensor) -> Tensor:
    """The losses of all images of a step in their order, from those of this process in theirs: (N,).

    By messages and not by a sum: the update is done, so a process in which it failed takes part in no sum any more.

    Raises:
        UpdateFailedError: the step is complete in this process, but not in all.
    """
    if run.ranks.size == 1:
        return losses
    own = iter(losses.tolist())
    mine: list[list[float]] = []
    for batch in batches:
        mine.append([] if batch.is_elsewhere else list(islice(own, len(batch.names))))
    try:
        said = run.ranks.exchange("losses", {"batches": mine})
    except RankError as error:
        raise UpdateFailedError("The step could not be completed", str(error)) from error
    of_all: list[float] = []
    for parts in zip(*(message["batches"] for message in said), strict=True):
        for part in parts:  # only one process has any of a batch
            of_all += part
    return torch.tensor(of_all, device=losses.device)


def split_batches(batches: Iterable[Batch], at_once: int | None) -> list[Batch]:
    """Cut batches into parts of at most `at_once` images, in the same order; None leaves them whole."""
    if at_once is None:
        return list(batches)
    parts: list[Batch] = []
    for batch in batches:
        parts += split_batch(batch, -(-len(batch) // at_once))
    return parts


def reduce_memory(run: Run, largest: int) -> None:
    """Use less memory from now on: gradient checkpointing first, then half as many images at a time as `largest`.

    Raises:
        MemoryFullError: neither can be reduced further.
    """
    step = run.state.step + 1
    # First what costs only time: the result stays bit-identical, unlike that of smaller batches.
    if not uses_checkpointing(run.model):
        run.state.checkpointing = True
        enable_checkpointing(run.model)
        how = "with gradient checkpointing, which stays on."
    elif largest > 1:
        # Halving finds a size in few retries. Sums in another order differ in the last bits, which is recorded.
        run.state.at_once, run.state.is_exact = -(-largest // 2), False
        how = f"with {counted(run.state.at_once, 'image')} at a time, as in all later steps. The gradient is the same."
    else:
        why = "even with one image at a time and gradient checkpointing."
        raise MemoryFullError(f"Out of memory at step {step}", why)
    run.bus.emit(Warned(step, f"Out of memory at step {step}. Retrying {how}"))


def restore_oom_limits(run: Run, *, same_settings: bool) -> list[str]:
    """Apply what an earlier session of a restored run found to fit in memory; with other settings, forget it.

    Returns:
        Notes about it, in sentences.
    """
    state, notes = run.state, list[str]()
    if not same_settings:
        # Another resolution or batch size may fit as it is.
        state.at_once, state.checkpointing = None, False
    if state.checkpointing:
        enable_checkpointing(run.model)
        notes.append("Gradient checkpointing is on because this run was out of memory before.")
    if state.at_once:
        images = counted(state.at_once, "image")
        notes.append(f"Training with at most {images} at a time because this run was out of memory before.")
    if not state.is_exact:
        notes.append(
            "Batches were split when memory ran out: the result is mathematically equal, but not bit-identical."
        )
    return notes


def report_skipped_step(run: Run, batches: Sequence[Batch], losses: Tensor) -> None:
    """Report a step that was skipped because its losses (N,) or its gradients are not finite.

    Raises:
        DivergedError: it was the third in a row.
    """
    run.metrics.skipped_steps += 1
    finite = torch.isfinite(losses).tolist()
    # The losses are good and only a gradient is not: they belong on the curve.
    if all(finite):
        run.metrics.add(losses)
        if run.precision.scaler.is_enabled() and run.precision.scale > SMALLEST_SCALE:
            return  # the gradient overflowed, and the scaler has lowered its scale
    # Counted in a row and reset by a good step: a single bad image should not end a long run.
    run.state.bad_steps += 1
    names = [name for batch in batches for name in batch.names]
    culprits = [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]
    step = run.state.step + 1
    # If each parameter is updated by itself, a finite loss means that some of them were updated.
    extent = " in part" if run.update.is_partial and not culprits else ""
    run.bus.emit(Warned(step, f"Step {step} was skipped{extent}: {_describe(names, culprits)}"))
    if run.state.bad_steps >= MAX_BAD_STEPS:
        raise DivergedError(
            f"{MAX_BAD_STEPS} steps in a row were skipped", "the model has diverged: its numbers are not finite."
        )


def require_savable(run: Run) -> None:
    """Check that the weights are worth saving.

    Raises:
        UnusableWeightsError: some are not finite.
    """
    step = run.state.step
    # Only what is trained can have changed; checking frozen parts would read gigabytes for nothing.
    parameters = trained_parameters(run.model)
    # A sum takes a thirtieth of the time. One that is not finite may have overflowed, so that each number is looked at.
    sums = torch.stack([p.detach().sum(dtype=torch.float32) for p in parameters])
    if bool(torch.isfinite(sums).all()):
        return
    if not bool(torch.stack([torch.isfinite(p).all() for p in parameters]).all()):
        fix = "Resume from the previous checkpoint with a lower learning rate."
        raise UnusableWeightsError(f"Step {step} was not saved", "some weights are not finite.", fix)


def _describe(names: Sequence[str], culprits: Sequence[str]) -> str:
    if culprits:
        return f"the loss of {first_of(culprits, NAMES_SHOWN)} is not finite."
    return f"its gradient is not finite. Its images: {first_of(names, NAMES_SHOWN)}."
