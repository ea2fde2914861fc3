"""How the gradients of a step become an update of the weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ed2.errors import TrainingError, UpdateFailedError
from ed2.models.compute import CLIP_EPSILON, Precision
from ed2.training.optimizers import Optimizers, parameters_of


class Update(Protocol):
    """Turns the losses of a step into an update of the weights.

    Attributes:
        is_partial: whether a gradient that is not finite stops only the update of its own parameter.
    """

    is_partial: bool

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
class WholeUpdate:
    """Keeps all gradients until the end of the step, clips them together and steps every optimizer once.

    Attributes:
        max_norm: maximum norm of all gradients together; None for no clipping.
    """

    optimizers: Optimizers
    precision: Precision
    max_norm: float | None
    _finite: list[Tensor] = field(default_factory=list)
    is_partial = False

    def accumulate(self, loss: Tensor) -> None:
        """Backpropagate a loss into the gradients of the parameters."""
        # Kept as a tensor: reading it here would make the CPU wait for the GPU at every batch.
        self._finite.append(torch.isfinite(loss.detach()))
        self.precision.backward(loss)

    def finish(self) -> tuple[Tensor, bool]:
        """Clip, read the one flag of the step from the device, and step every optimizer if it is set."""
        # Over all networks together, as one vector: clipping each alone would change its direction.
        norm = self._clip()
        is_finite = self.precision.step_or_skip(torch.stack([torch.isfinite(norm), *self._finite]).all())
        if is_finite:
            with changing_weights():
                self._step()
        # To None rather than to zero: parameters without a gradient are skipped, and the memory is free between steps.
        self._finite.clear()
        self.optimizers.zero_grad()
        return norm, is_finite

    def _clip(self) -> Tensor:
        return self.precision.clip(self.optimizers, self.max_norm)

    def _step(self) -> None:
        self.optimizers.step()

    def discard(self) -> None:
        """Drop the gradients, and forget that they were unscaled."""
        self._finite.clear()
        self.optimizers.zero_grad()
        # Or the scaler refuses to unscale a second time in this step.
        self.precision.forget()


@dataclass
class FusedUpdate:
    """Updates each parameter as soon as its gradient is complete, and frees the gradient at once.

    There is never more than one gradient in memory, so nothing is known of the others: each is clipped alone, and one
    that is not finite leaves its own parameter as it was. After running out of memory a batch may be cut into parts;
    their gradients have to be added up first, so they are all held then, which gives the update of `WholeUpdate`.

    Attributes:
        max_norm: maximum norm of the gradient of each parameter; None for no clipping.
        holds_gradients: whether the batches of this step are parts of one.
    """

    optimizers: Optimizers
    precision: Precision
    max_norm: float | None
    holds_gradients: Callable[[], bool]
    _losses_are_finite: list[Tensor] = field(default_factory=list)
    _norms: list[Tensor] = field(default_factory=list)
    _are_good: list[Tensor] = field(default_factory=list)
    _stepped: set[Tensor] = field(default_factory=set)
    is_partial = True

    def __post_init__(self) -> None:
        for network, optimizer in self.optimizers.by_network.items():
            for parameter in parameters_of(optimizer):
                parameter.register_post_accumulate_grad_hook(partial(self._take, network))

    def accumulate(self, loss: Tensor) -> None:
        """Backpropagate a loss; its gradients become updates on the way.

        Raises:
            UpdateFailedError: an error came after a parameter was updated.
        """
        self._losses_are_finite.append(torch.isfinite(loss.detach()))
        try:
            self.precision.backward(loss)
        except Exception as error:
            if not self._stepped:  # nothing has changed, so the step can be retried
                raise
            with changing_weights():
                raise error

    def finish(self) -> tuple[Tensor, bool]:
        """Update what was held, and read the one flag of the step from the device."""
        with changing_weights():
            for network, optimizer in self.optimizers.by_network.items():
                for parameter in parameters_of(optimizer):
                    if parameter.grad is not None:
                        self._step(network, parameter)
            self.optimizers.drop_unused_state(self._stepped)
        norm = torch.linalg.vector_norm(torch.stack(self._norms))
        is_finite = bool(torch.stack(self._are_good).all())
        self._forget()
        return norm, is_finite

    def discard(self) -> None:
        """Drop the gradients that were held."""
        self._forget()
        self.optimizers.zero_grad()

    def _take(self, network: str, parameter: Tensor) -> None:
        if not self.holds_gradients():
            self._step(network, parameter)

    @torch.no_grad()
    def _step(self, network: str, parameter: Tensor) -> None:
        """Clip and update one parameter; nothing is read from the device."""
        assert parameter.grad is not None
        norm = torch.linalg.vector_norm(parameter.grad, dtype=torch.float32)
        is_good = torch.stack([torch.isfinite(norm), *self._losses_are_finite]).all()
        self._norms.append(norm)
        self._are_good.append(is_good)
        self._stepped.add(parameter)
        gradient = parameter.grad.float()
        if self.max_norm is not None:
            gradient.mul_((self.max_norm / (norm + CLIP_EPSILON)).clamp(max=1.0))
        # Zeros, so that the optimizer's averages stay finite; the weights are put back.
        gradient.masked_fill_(~is_good, 0.0)
        self.optimizers.step_one(network, parameter, gradient, is_good)

    def _forget(self) -> None:
        for kept in (self._losses_are_finite, self._norms, self._are_good, self._stepped):
            kept.clear()


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
