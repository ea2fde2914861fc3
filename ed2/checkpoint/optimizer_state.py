"""The state of an optimizer as named tensors and plain numbers, for safetensors and JSON: no pickle."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ed2.ranks.base import RankAnswer, Ranks
from ed2.tensor_bytes import bytes_in
from ed2.training.optimizers import Optimizers, as_fp32, parameters_of

SEPARATOR = "/"
SAME = "same as"
MAX_COMPARED = 4096
"""Largest number of elements of a tensor that is compared with others."""
OPTIMIZER_STATE = "optimizer state"
"""What rank 0 asks for to save the state that other processes keep."""

Leaves = Mapping[str, Any]
"""Tensors and numbers of an optimizer's state, named by place: "0/exp_avg"."""
NOTHING: Leaves = {}


def flatten_state(
    optimizer: torch.optim.Optimizer, take: Callable[[Tensor], Tensor], elsewhere: Leaves = NOTHING
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of `optimizer` as tensors, each after `take`, and as numbers, with what was kept `elsewhere`.

    Small tensors of the same content, such as the tables of 8-bit optimizers that all parameters share, are returned
    once. The numbers then hold, for every other place, the name of the first.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    first_place: dict[object, str] = {}
    leaves = {**_leaves_of(optimizer), **elsewhere}
    # Sorted, so that the first place of a shared tensor is the same after a resume.
    for name in sorted(leaves):
        value = leaves[name]
        if not isinstance(value, Tensor):
            numbers[name] = value
            continue
        content = _content(value)
        if content is not None and first_place.setdefault(content, name) != name:
            numbers[name] = {SAME: first_place[content]}
        else:
            tensors[name] = value if name in elsewhere else take(value)
    return tensors, numbers


def changed_options(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The options of each parameter group that an optimizer has changed itself.

    Prodigy keeps its step size there, schedule-free the sum of its weights. The learning rate is left out, since it
    follows from the number of the update.
    """
    changed = []
    for group in optimizer.param_groups:
        options = {name: value for name, value in group.items() if name not in ("params", "lr")}
        for name, default in optimizer.defaults.items():
            if name in options and options[name] == default:
                del options[name]
        changed.append(options)
    return changed


def restore_state(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
    options: Sequence[Mapping[str, Any]] = (),
    is_here: Callable[[Tensor], bool] = lambda parameter: True,
) -> None:
    """Load what `flatten_state` and `changed_options` returned into a new `optimizer` of the same parameters.

    Only the state of parameters that are here is loaded, since there may not be enough memory for all.

    Raises:
        ValueError: the state belongs to other parameters.
    """
    state: dict[Any, Any] = {}
    parameters = parameters_of(optimizer)
    for name, value in (*tensors.items(), *numbers.items()):
        index, *path, last = name.split(SEPARATOR)
        if not is_here(parameters[int(index)]):
            continue
        place = state.setdefault(int(index), {})
        for step in path:
            place = place.setdefault(step, {})
        place[last] = tensors[value[SAME]].clone() if isinstance(value, Mapping) else value
    with contextlib.ExitStack() as swaps:
        # Loading casts the state to the type of its parameter, and it is in fp32 for weights in bf16 too.
        for parameter in parameters:
            if parameter.dtype != torch.float32:
                swaps.enter_context(as_fp32(parameter, torch.empty(0, device=parameter.device)))
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    _match_strides(optimizer)
    for group, changed in zip(optimizer.param_groups, options, strict=False):
        group.update(changed)


def _match_strides(optimizer: torch.optim.Optimizer) -> None:
    """Give each tensor of the state the memory layout of its parameter, which fused kernels rely on."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def own_state(optimizers: Optimizers) -> RankAnswer:
    """For rank 0: the state that this process keeps of the parameters that it owns."""
    about: dict[str, Any] = {}
    tensors: list[Tensor] = []
    for network, optimizer in optimizers.by_network.items():
        parameters, numbers, names = parameters_of(optimizer), dict[str, Any](), list[str]()
        for name, value in _leaves_of(optimizer).items():
            if parameters[int(name.split(SEPARATOR)[0])] not in optimizers.shards.owners:
                continue  # rank 0 has it itself
            if isinstance(value, Tensor):
                names.append(name)
                tensors.append(value)
            else:
                numbers[name] = value
        about[network] = {"numbers": numbers, "tensors": names}
    return RankAnswer(about, tensors)


def states_elsewhere(optimizers: Optimizers, ranks: Ranks) -> dict[str, dict[str, Any]]:
    """What other processes keep of the state of each network's optimizer. Raises RankError."""
    found: dict[str, dict[str, Any]] = {network: {} for network in optimizers.by_network}
    ranks.ask(OPTIMIZER_STATE, {})
    for answer in ranks.answers():
        tensors = iter(answer.tensors)
        for network, about in answer.values.items():
            found[network] |= about["numbers"]
            found[network] |= {name: next(tensors) for name in about["tensors"]}
    return found


def _leaves_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return dict(_leaves(optimizer.state_dict()["state"]))


def _leaves(state: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, name + SEPARATOR)
        else:
            yield name, value


def _content(tensor: Tensor) -> object:
    """A key that is equal for identical small tensors; None for a large one."""
    if tensor.numel() > MAX_COMPARED:
        return None
    return (
        str(tensor.dtype),
        tuple(tensor.shape),
        bytes_in(tensor.cpu()).numpy().tobytes(),
    )
