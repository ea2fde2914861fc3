"""How the gradients of a step become an update of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ed2.errors import TrainingError, UpdateFailedError
from ed2.models.compute import Precision
from ed2.training.optimizers import Optimizers


class Update(Protocol):
    """Turns the losses of a step into an update of the weights."""

    def accumulate(self, loss: Tensor) -> None:
        """Backpropagate a loss, a tensor of one number; gradients add up until `finish`."""
        ...

    def finish(self) -> tuple[Tensor, bool]:
        """Update the weights, unless a number is not finite.

        Returns:
            The norm of the gradient before clipping, on the device, and whether the weights were updated.

        Raises:
            UpdateFailedError: part of the weights may have been updated.
        """
        ...

    def discard(self) -> None:
        """Drop what was accumulated; the step is retried."""
        ...


@dataclass
class Whole:
    """Keeps all gradients until the end of the step, clips them together and steps every optimizer once.

    Attributes:
        max_norm: maximum norm of all gradients together; None for no clipping.
    """

    optimizers: Optimizers
    precision: Precision
    max_norm: float | None
    _finite: list[Tensor] = field(default_factory=list)

    def accumulate(self, loss: Tensor) -> None:
        """Backpropagate a loss into the gradients of the parameters."""
        # Kept as a tensor: reading it here would make the CPU wait for the GPU at every batch.
        self._finite.append(torch.isfinite(loss.detach()))
        self.precision.backward(loss)

    def finish(self) -> tuple[Tensor, bool]:
        """Clip, read the one flag of the step from the device, and step every optimizer if it is set."""
        # Over all networks together, as one vector: clipping each alone would change its direction.
        norm = self.precision.clip(self.optimizers, self.max_norm)
        is_finite = self.precision.step_or_skip(torch.stack([torch.isfinite(norm), *self._finite]).all())
        if is_finite:
            with changing_weights():
                self.optimizers.step()
        # To None rather than to zero: parameters without a gradient are skipped, and the memory is free between steps.
        self._finite.clear()
        self.optimizers.zero_grad()
        return norm, is_finite

    def discard(self) -> None:
        """Drop the gradients, and forget that they were unscaled."""
        self._finite.clear()
        self.optimizers.zero_grad()
        # The scaler refuses to unscale twice in a step unless it is told that the first one does not count.
        self.precision.forget()


@contextmanager
def changing_weights() -> Iterator[None]:
    """Mark the part of a step that changes weights, including everything needed to complete the step.

    Raises:
        UpdateFailedError: it failed; the weights in memory are incomplete and must be neither used nor saved.
    """
    try:
        yield
    # It says already what went wrong and what to do, such as that the model has diverged.
    except TrainingError:
        raise
    except Exception as error:  # whatever an optimizer raises, the weights may have changed in part
        why = f"{type(error).__name__}: {error}".rstrip(".")
        raise UpdateFailedError("Updating the weights failed", f"{why}.") from error
