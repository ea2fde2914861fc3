"""An update of the weights from the gradients of several processes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ed2.errors import RankError, UpdateFailedError
from ed2.models.memory import is_out_of_memory
from ed2.ranks.base import SUM_NUMBERS, Message, Ranks
from ed2.training.optimizers import Optimizers, parameters_of
from ed2.training.update import FusedUpdate, WholeUpdate, changing_weights

GRADIENTS = "gradients"
OUT_OF_MEMORY = "out_of_memory"


class OutOfMemoryElsewhereError(MemoryError):
    """Another process has run out of memory; all know it, and retry the step alike."""


def tell_out_of_memory(ranks: Ranks) -> None:
    """Tell the others that this process has run out of memory in a step, before it had its gradients."""
    ranks.exchange(GRADIENTS, {OUT_OF_MEMORY: True})


@dataclass
class SharedUpdate(WholeUpdate):
    """Sums the gradients of all processes at the end of the step, and then does as `WholeUpdate`, in each of them.

    Each gets the sums of the parameters that it owns, updates these, and hands them out. All know the norms of all, and
    so clip and decide alike. Where parameters have no owner, or fp16 needs its scale adjusted, all get all sums.
    Until all have their gradients nothing has changed; from then on an error in one of them leaves the others ahead of
    it, and the run goes back to its last checkpoint.

    Attributes:
        ranks: the processes.
    """

    ranks: Ranks = field(default_factory=Ranks)
    _changed: list[Tensor] = field(default_factory=list)

    def finish(self) -> tuple[Tensor, bool]:
        """Wait until all have their gradients, add them up, and update the weights.

        Raises:
            OutOfMemoryElsewhereError: another process has run out of memory.
            UpdateFailedError: this process has failed, and the others have not.
            RankError: another process has failed or was lost.
        """
        self._changed = self._complete()
        is_bad = (~torch.stack(self._finite).all()).float()
        with changing_weights():
            self._add_up(is_bad)
            self._finite[:] = [is_bad == 0]
            return super().finish()

    def _add_up(self, is_bad: Tensor) -> None:
        if self._is_shared_out:
            add_up(self._changed, is_bad, self.optimizers, self.ranks)
        else:
            self.ranks.add_up([*gradients_of(self._changed), is_bad])

    @property
    def _is_shared_out(self) -> bool:
        return bool(self.optimizers.shards.owners) and not self.precision.scaler.is_enabled()

    def _clip(self) -> Tensor:
        if not self._is_shared_out:
            return super()._clip()
        owners = self.optimizers.shards.owners
        norms = torch.zeros(len(self._changed), device=self._changed[0].device)
        for place, parameter in enumerate(self._changed):
            if parameter.grad is not None and owners.get(parameter, 0) == self.ranks.rank:
                norms[place] = torch.linalg.vector_norm(parameter.grad, dtype=torch.float32)
        share_norms(norms, self.ranks)
        return self.precision.clip(self.optimizers, self.max_norm, torch.linalg.vector_norm(norms))

    def _step(self) -> None:
        super()._step()
        hand_out(self._changed, self.optimizers, self.ranks)

    def _complete(self) -> list[Tensor]:
        """Return the parameters that have a gradient in any process, in a fixed order; here they all have one then."""
        parameters = [parameter for optimizer in self.optimizers for parameter in parameters_of(optimizer)]
        own = [place for place, parameter in enumerate(parameters) if parameter.grad is not None]
        every = [set(message["has"]) for message in _agree(self.ranks, {"has": own})]
        used = [parameters[place] for place in sorted(set.union(*every))]
        if any(len(has) < len(used) for has in every):  # a process had no batch, or one that reaches fewer parameters
            _agree(self.ranks, _fill(used))
        return used


@dataclass
class SharedFusedUpdate(FusedUpdate):
    """Adds up the gradients of all processes within the backward pass, and updates as `FusedUpdate` does.

    Gradients wait until they fill the buffer of a sum; those that all processes have are then summed, each for its
    owner. The more their order differs between processes, the more of them wait.

    Attributes:
        ranks: the processes, each with one batch.
    """

    ranks: Ranks = field(default_factory=Ranks)
    _waiting: set[Tensor] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__post_init__()
        own = self.optimizers.by_network.items()
        self._networks = {parameter: name for name, optimizer in own for parameter in parameters_of(optimizer)}
        self._parameters = list(self._networks)
        self._places = {parameter: place for place, parameter in enumerate(self._parameters)}

    def finish(self) -> tuple[Tensor, bool]:
        """Update what is left, in all processes, and hand the new weights out.

        Raises:
            OutOfMemoryElsewhereError: another process has run out of memory.
            UpdateFailedError: weights have changed, but not all, or not in all processes.
            RankError: another process has failed or was lost.
        """
        self._waiting |= {parameter for parameter in self._parameters if parameter.grad is not None}
        while not self._update_common(is_done=True):
            continue
        with _completing():
            self._tell_norms()
            hand_out(
                [parameter for parameter in self._networks if parameter in self._stepped], self.optimizers, self.ranks
            )
        return super().finish()

    def discard(self) -> None:
        """Drop the gradients that were held or waited."""
        self._waiting.clear()
        super().discard()

    def _take(self, network: str, parameter: Tensor) -> None:
        if self.holds_gradients():
            return
        self._waiting.add(parameter)
        if sum(waiting.numel() for waiting in self._waiting) >= SUM_NUMBERS:
            self._update_common(is_done=False)

    def _update_common(self, *, is_done: bool) -> bool:
        """Add up and update what waits in all processes; of what is left once all are done, everything.

        Returns:
            Whether all are done.
        """
        own = [self._places[parameter] for parameter in self._waiting]
        with _completing() if self._stepped else nullcontext():
            said = _agree(self.ranks, {"has": own, "done": is_done})
            every, are_done = [set(message["has"]) for message in said], all(message["done"] for message in said)
            common = set.union(*every) if are_done else set.intersection(*every)
            used = [self._parameters[place] for place in sorted(common)]
            if are_done and any(len(has) < len(used) for has in every):
                _agree(self.ranks, _fill(used))
        with _completing():
            self._add_up_and_step(used)
        return are_done

    def _add_up_and_step(self, parameters: Sequence[Tensor]) -> None:
        is_bad = (~torch.stack(self._losses_are_finite).all()).float()
        add_up(parameters, is_bad, self.optimizers, self.ranks)
        self._losses_are_finite[:] = [is_bad == 0]
        for parameter in parameters:
            self._step(self._networks[parameter], parameter)
        self._waiting -= set(parameters)

    def _step(self, network: str, parameter: Tensor) -> None:
        if self.optimizers.shards.is_here(parameter):
            super()._step(network, parameter)
            return
        self._norms.append(torch.zeros((), device=parameter.device))
        self._stepped.add(parameter)

    def _tell_norms(self) -> None:
        """Tell all the norms that only the owners know, so that all log and decide alike."""
        norms = torch.stack(self._norms)
        share_norms(norms, self.ranks)
        self._norms[:] = norms.unbind()
        self._are_good[:] = [torch.stack([torch.isfinite(norms).all(), *self._losses_are_finite]).all()]


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of those that have one."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def add_up(parameters: Sequence[Tensor], is_bad: Tensor, optimizers: Optimizers, ranks: Ranks) -> None:
    """Give each process the sums of the gradients that it owns, and all the flag; the other gradients are dropped."""
    shards = optimizers.shards
    ranks.add_up_for({owner: gradients_of(own) for owner, own in shards.by_owner(parameters).items()})
    ranks.add_up([*gradients_of([p for p in parameters if p not in shards.owners]), is_bad])
    for parameter in parameters:
        if not shards.is_here(parameter):
            parameter.grad = None


def share_norms(norms: Tensor, ranks: Ranks) -> None:
    """Put in the norms of other processes, where this one has zeros."""
    ranks.exchange("norms", {})  # a process that has failed since takes part in nothing
    ranks.add_up([norms])


def hand_out(changed: Sequence[Tensor], optimizers: Optimizers, ranks: Ranks) -> None:
    """Give all processes the parameters that were updated by their owners. Raises UpdateFailedError."""
    shared_out = optimizers.shards.by_owner(changed)
    if not shared_out:
        return
    with _completing():
        ranks.exchange("update", {})  # a process in which it failed takes part in nothing
        ranks.hand_out(shared_out)


@contextmanager
def _completing() -> Iterator[None]:
    """What comes after weights have changed in this process or another. Raises UpdateFailedError for every error."""
    try:
        with changing_weights():
            yield
    except RankError as error:
        raise UpdateFailedError("The step could not be completed", str(error)) from error


def _agree(ranks: Ranks, own: Message) -> list[Message]:
    messages = ranks.exchange(GRADIENTS, own)
    if any(OUT_OF_MEMORY in message for message in messages):
        raise OutOfMemoryElsewhereError
    return messages


def _fill(parameters: Sequence[Tensor]) -> Message:
    """Give each parameter without a gradient one of zeros; the message says so if there is no memory for that."""
    try:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return {OUT_OF_MEMORY: True}
    return {}
