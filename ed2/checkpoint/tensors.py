"""The state of an optimizer as named tensors and plain numbers, for safetensors and JSON: no pickle."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

SEPARATOR = "/"
SAME = "same as"
MOST_COMPARED = 4096
"""Numbers in a tensor that is looked at for being the same as another."""


def taken_apart(
    optimizer: torch.optim.Optimizer, take: Callable[[Tensor], Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of `optimizer` as what `take` gives of its tensors, and numbers, named by place: "0/exp_avg".

    Small tensors of the same content, such as the tables of 8-bit optimizers that all parameters share, are returned
    once; among the numbers stands for each further place the name of the first.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    first_place: dict[object, str] = {}
    state = optimizer.state_dict()["state"]
    for name, value in sorted(
        _leaves(state), key=lambda leaf: leaf[0]
    ):  # so that the first place is the same one after a resume
        if not isinstance(value, Tensor):
            numbers[name] = value
            continue
        content = _content(value)
        if content is not None and first_place.setdefault(content, name) != name:
            numbers[name] = {SAME: first_place[content]}
        else:
            tensors[name] = take(value)
    return tensors, numbers


def changed_options(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What an optimizer has found out for each group of parameters: options that are not as it was made.

    Prodigy keeps its step size there, schedule-free the sum of its weights. The learning rate is left out: it follows
    from the number of the update.
    """
    return [
        {
            name: value
            for name, value in group.items()
            if name not in ("params", "lr") and (name not in optimizer.defaults or optimizer.defaults[name] != value)
        }
        for group in optimizer.param_groups
    ]


def put_back(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
    options: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Give `optimizer`, made anew for the same parameters, what `taken_apart` and `changed_options` returned.

    Raises:
        ValueError: the state belongs to other parameters.
    """
    state: dict[Any, Any] = {}
    for name, value in (*tensors.items(), *numbers.items()):
        index, *path, last = name.split(SEPARATOR)
        place = state.setdefault(int(index), {})
        for step in path:
            place = place.setdefault(step, {})
        place[last] = tensors[value[SAME]].clone() if isinstance(value, Mapping) else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    _lay_out(optimizer)
    for group, changed in zip(optimizer.param_groups, options, strict=False):
        group.update(changed)


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Give each number of the state the place in memory that its parameter's has, which fused kernels rely on."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _leaves(state: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, name + SEPARATOR)
        else:
            yield name, value


def _content(tensor: Tensor) -> object:
    """What two small tensors have in common if they are the same; None for a large one."""
    if tensor.numel() > MOST_COMPARED:
        return None
    return (
        str(tensor.dtype),
        tuple(tensor.shape),
        tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
    )
