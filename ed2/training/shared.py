"""An update of the weights from the gradients of several processes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from ed2.errors import RankError, UpdateFailedError
from ed2.models.memory import is_out_of_memory
from ed2.ranks.base import Message, OneRank, Ranks
from ed2.training.optimizers import parameters_of
from ed2.training.update import Whole, changing_weights

GRADIENTS = "gradients"
OUT_OF_MEMORY = "out_of_memory"


class OutOfMemoryElsewhereError(MemoryError):
    """Another process has run out of memory; all know it, and retry the step alike."""


def tell_out_of_memory(ranks: Ranks) -> None:
    """Tell the others that this process has run out of memory in a step, before it had its gradients."""
    ranks.exchange(GRADIENTS, {OUT_OF_MEMORY: True})


@dataclass
class Shared(Whole):
    """Sums the gradients of all processes at the end of the step, and then does as `Whole`, in each of them.

    All see the same sums, bit for bit, and so clip alike. Each updates the parameters that it owns, and hands them out.
    Until all have their gradients nothing has changed; from then on an error in one of them leaves the others ahead of
    it, and the run goes back to its last checkpoint.

    Attributes:
        ranks: the processes.
    """

    ranks: Ranks = field(default_factory=OneRank)

    def finish(self) -> tuple[Tensor, bool]:
        """Wait until all have their gradients, add them up, and update the weights.

        Raises:
            OutOfMemoryElsewhereError: another process has run out of memory.
            UpdateFailedError: this process has failed, and the others have not.
            RankError: another process has failed or was lost.
        """
        parameters = self._complete()
        is_bad = (~torch.stack(self._finite).all()).float()
        with changing_weights():
            self.ranks.add_up([*[p.grad for p in parameters if p.grad is not None], is_bad])
            self._finite[:] = [is_bad == 0]
            return super().finish()

    def _step(self) -> None:
        changed = [p for optimizer in self.optimizers for p in parameters_of(optimizer) if p.grad is not None]
        super()._step()
        shared_out = self.optimizers.shards.by_owner(changed)
        if not shared_out:
            return
        try:
            self.ranks.exchange("update", {})  # one in which it failed takes part in nothing
            self.ranks.hand_out(shared_out)
        except RankError as error:
            raise UpdateFailedError("The step could not be completed", str(error)) from error

    def _complete(self) -> list[Tensor]:
        """Return the parameters that have a gradient in any process, in a fixed order; here they all have one then."""
        parameters = [parameter for optimizer in self.optimizers for parameter in parameters_of(optimizer)]
        masks = [int(message["has"], 16) for message in self._agree({"has": f"{_mask(parameters):x}"})]
        union = reduce(or_, masks)
        used = [parameter for place, parameter in enumerate(parameters) if union >> place & 1]
        if any(mask != union for mask in masks):  # a process had no batch, or one that reaches fewer parameters
            self._agree(_fill(used))
        return used

    def _agree(self, own: Message) -> list[Message]:
        messages = self.ranks.exchange(GRADIENTS, own)
        if any(OUT_OF_MEMORY in message for message in messages):
            raise OutOfMemoryElsewhereError
        return messages


def _mask(parameters: Sequence[Tensor]) -> int:
    """A number whose bits tell which parameters have a gradient."""
    return sum(1 << place for place, parameter in enumerate(parameters) if parameter.grad is not None)


def _fill(parameters: Sequence[Tensor]) -> Message:
    """Give each parameter without a gradient one of zeros; says if there is no memory for that."""
    try:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return {OUT_OF_MEMORY: True}
    return {}
