"""The optimizers of a run, one for each trained network, stepped together; and their state, made before a step."""

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ed2.errors import MemoryFullError
from ed2.models.memory import is_out_of_memory
from ed2.training.rounding import Rounding
from ed2.training.schedules import Schedule
from ed2.training.shards import Shards


@dataclass
class Optimizers:
    """One optimizer for each trained network, with its own learning rate.

    Attributes:
        by_network: optimizer by the network's name.
        base_lrs: learning rate of each network before its schedule.
        schedules: factor on the rate by update number; a network without one keeps its rate.
        rounding: how weights in bf16 are rounded; None for weights in fp32.
        shards: which process updates which parameter.
        bytes_elsewhere: size of the state that other processes keep.
    """

    by_network: Mapping[str, torch.optim.Optimizer]
    base_lrs: Mapping[str, float]
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    rounding: Rounding | None = None
    shards: Shards = field(default_factory=Shards)
    bytes_elsewhere: int = 0
    _made_early: set[str] = field(default_factory=set)
    _update: int = 0

    def __iter__(self) -> Iterator[torch.optim.Optimizer]:
        return iter(self.by_network.values())

    def make_state(self) -> None:
        """Create the state that this process keeps, of every optimizer that has none yet.

        Raises:
            MemoryFullError: it does not fit in memory.
        """
        for name, optimizer in self.by_network.items():
            if optimizer.state:  # restored from a checkpoint
                continue
            try:
                make_state(optimizer, list(filter(self.shards.is_here, parameters_of(optimizer))))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise MemoryFullError(f"Out of memory while making the optimizer state of the {name}") from None
            self._made_early.add(name)

    def step(self) -> None:
        """Update every parameter that has a gradient; the gradients of those that others update are dropped."""
        for parameter in self.shards.owners:
            if not self.shards.is_here(parameter):
                parameter.grad = None
        used: set[Tensor] = set()
        for name in self._made_early:  # only before the first step; each gradient is dropped as it is used
            used |= {p for p in parameters_of(self.by_network[name]) if p.grad is not None}
        for name, optimizer in self.by_network.items():
            if self.rounding is None:
                optimizer.step()
                continue
            for parameter in parameters_of(optimizer):
                if parameter.grad is not None:
                    self.step_one(name, parameter, parameter.grad.float())
        self.drop_unused_state(used)

    @torch.no_grad()
    def step_one(self, network: str, parameter: Tensor, gradient: Tensor, is_good: Tensor | None = None) -> None:
        """Update one parameter, computed on a copy of it in fp32, and drop its gradient.

        Args:
            network: the parameter's.
            parameter: in fp32 or bf16.
            gradient: in fp32, of the parameter's shape.
            is_good: a tensor of one truth value; the parameter stays as it is where that is false.
        """
        weights = parameter.data
        parameter.grad = None
        with as_fp32(parameter, weights.to(torch.float32, copy=True)):
            parameter.grad = gradient
            _step_alone(self.by_network[network], parameter)
            parameter.grad = None
            exact = parameter.data
        if self.rounding is not None:
            exact = self.rounding.rounded(parameter, exact, self._update)
        weights.copy_(exact if is_good is None else torch.where(is_good, exact, weights))

    def drop_unused_state(self, used: Collection[Tensor]) -> None:
        """After the first step, drop the state of parameters that were not `used`: they have no gradient."""
        # Only known now: which parameters get a gradient shows in the first step.
        for name in self._made_early:
            optimizer = self.by_network[name]
            for parameter in parameters_of(optimizer):
                if parameter not in used:  # such as those of layers that `clip_skip` leaves out
                    optimizer.state.pop(parameter, None)
        self._made_early.clear()

    def set_lr(self, update: int) -> None:
        """Set every learning rate to that of update number `update`, counted from 0."""
        self._update = update
        for name, optimizer in self.by_network.items():
            factor = self.schedules[name](update) if name in self.schedules else 1.0
            for group in optimizer.param_groups:
                group["lr"] = self.base_lrs[name] * factor

    def lrs(self) -> dict[str, float]:
        """The current learning rates by network, times the factor that Prodigy has found."""
        # All groups of a network share one rate; Prodigy keeps its factor in the group.
        groups = {name: optimizer.param_groups[0] for name, optimizer in self.by_network.items()}
        return {name: float(group["lr"] * group.get("d", 1.0)) for name, group in groups.items()}

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self:
            optimizer.zero_grad(set_to_none=True)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Swap the weights to use and save into the networks, and swap the trained ones back afterwards.

        Only for schedule-free optimizers are these different weights. They compute the one from the other, which is not
        exact, so the trained weights are kept on the CPU meanwhile.
        """
        free: list[Any] = [optimizer for optimizer in self if averages(optimizer)]
        kept = [[p.detach().to("cpu", copy=True) for p in parameters_of(optimizer)] for optimizer in free]
        try:
            for optimizer in free:
                optimizer.eval()
            yield
        finally:
            for optimizer, tensors in zip(free, kept, strict=True):
                optimizer.train()
                overwrite(parameters_of(optimizer), tensors)


class _Recorded(dict[str, Any]):
    """The state of one parameter, which remembers each entry as it was first set."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, tuple[Any, Any]] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self.first:
            self.first[name] = (value, value.clone() if isinstance(value, Tensor) else None)
        super().__setitem__(name, value)

    def reset(self) -> dict[str, Any]:
        """The entries with the values that they were first set to, in the same memory."""
        for value, copy in self.first.values():
            if copy is not None:
                value.copy_(copy)
        return {name: value for name, (value, _) in self.first.items()}


@torch.no_grad()
def make_state(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
    """Create the state of some of its parameters now, with the same bytes as in the first step.

    Optimizers make state only in their first step, each in its own way. Made here, it is known to fit in memory before
    anything is trained, and an update hardly allocates. Each parameter is stepped alone with a gradient of zeros, which
    bounds the memory that this takes; then everything is reset: weights, state and the optimizer's own numbers.
    """
    options = [dict(group) for group in optimizer.param_groups]
    recorded: defaultdict[Tensor, _Recorded] = defaultdict(_Recorded)
    state: defaultdict[Tensor, Any] = defaultdict(dict)
    # The optimizer's own state is replaced meanwhile, so that the first value of every entry can be recorded.
    optimizer.state = recorded
    for parameter in parameters:
        # On a copy: an update in fp32 makes its state in fp32, whatever the weights are in.
        with as_fp32(parameter, parameter.data.to(torch.float32, copy=True)):
            # Zeros and not None: parameters without a gradient would get no state.
            parameter.grad = torch.zeros_like(parameter)
            _step_alone(optimizer, parameter)
            parameter.grad = None
        state[parameter] = recorded.pop(parameter).reset()
        # Some count steps or keep estimates in the group, which must start from the beginning.
        for group, values in zip(optimizer.param_groups, options, strict=True):
            group.clear()
            group.update(values)
    optimizer.state = state
    if any(parameter.device.type == "cuda" for parameter in parameters):
        torch.cuda.empty_cache()


@contextlib.contextmanager
def as_fp32(parameter: Tensor, numbers: Tensor) -> Iterator[None]:
    """Let a parameter hold these `numbers`, in fp32, and its own again afterwards."""
    own = parameter.data
    parameter.data = numbers
    try:
        yield
    finally:
        parameter.data = own


def _step_alone(optimizer: torch.optim.Optimizer, parameter: Tensor) -> None:
    """Step a single parameter; looking at all others each time would take longer than the update."""
    (group,) = optimizer.param_groups
    whole, group["params"] = group["params"], [parameter]
    try:
        optimizer.step()
    finally:
        group["params"] = whole


def averages(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the weights that it trains differ from those to use and save."""
    return hasattr(optimizer, "eval") and hasattr(optimizer, "train")


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters of all its groups, in order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@torch.no_grad()
def overwrite(parameters: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    """Write values, from any device, into parameters."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
