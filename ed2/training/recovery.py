"""What a step does when the memory does not suffice: the same again, with less in memory at once."""

import logging
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from ed2.data.loader import Batch, split_batch
from ed2.errors import MemoryFullError
from ed2.events import Warned
from ed2.models.memory import enable_checkpointing, is_out_of_memory, release_memory, uses_checkpointing
from ed2.training.state import Run

logger = logging.getLogger(__name__)


def within_memory(run: Run, batches: Sequence[Batch], attempt: Callable[[Run, Sequence[Batch]], Tensor]) -> Tensor:
    """Return what `attempt` gives for `batches`, in smaller parts where the memory does not suffice.

    Draws are keyed by the image, and each image's share of the gradient does not depend on its batch: what an
    attempt in parts leaves is the same gradient but for rounding. Nothing of a failed attempt is kept.

    Raises:
        MemoryFullError: not even one image at a time finds room.
    """
    while True:
        parts = in_portions(batches, run.state.at_once)
        try:
            return attempt(run, parts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            logger.info("The memory did not suffice for step %d.", run.state.step + 1, exc_info=True)
        # Only here, after `except`: the error held on to the tensors of the attempt.
        run.optimizers.zero_grad()
        run.precision.forget()
        release_memory(run.objective.device)
        take_less(run, max(map(len, parts)))


def in_portions(batches: Iterable[Batch], at_once: int | None) -> list[Batch]:
    """Cut batches into parts of at most `at_once` images, in the same order; None leaves them whole."""
    if at_once is None:
        return list(batches)
    return [part for batch in batches for part in split_batch(batch, -(-len(batch) // at_once))]


def take_less(run: Run, largest: int) -> None:
    """Need less memory from now on: by gradient checkpointing, then by passes of half as many images as `largest`.

    Raises:
        MemoryFullError: neither is left.
    """
    step = run.state.step + 1
    if not uses_checkpointing(run.model):
        switch_on_checkpointing(run)
        how = "with gradient checkpointing, which stays on"
    elif largest > 1:
        run.state.at_once, run.state.is_exact = -(-largest // 2), False
        count = f"{run.state.at_once} image{'s' * (run.state.at_once > 1)}"
        how = f"with {count} at a time, as all steps from now on; the gradient is the same"
    else:
        why = "not even for one image at a time with gradient checkpointing"
        raise MemoryFullError(f"The memory does not suffice for step {step}", f"{why}.")
    run.bus.emit(Warned(step, f"The memory did not suffice for step {step}. It is done again {how}."))


def go_on_as_before(run: Run, *, same_settings: bool) -> list[str]:
    """Take up again what an earlier part of a restored run found to fit the memory; with other settings find it anew.

    Returns:
        Sentences on it.
    """
    if not same_settings:
        run.state.at_once, run.state.checkpointing = None, False
    if run.state.checkpointing:
        switch_on_checkpointing(run)
    notes = {
        "Gradient checkpointing is on, since the memory did not suffice before.": run.state.checkpointing,
        f"At most {run.state.at_once} images at a time, since more did not fit before.": run.state.at_once,
        "Batches were cut for lack of memory: the result is equal in its maths, not byte for byte.": (
            not run.state.is_exact
        ),
    }
    return [note for note, holds in notes.items() if holds]


def switch_on_checkpointing(run: Run) -> None:
    """Turn gradient checkpointing on for the rest of the run."""
    run.state.checkpointing = True
    enable_checkpointing(run.model)
