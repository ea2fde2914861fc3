"""The state of an optimizer as named tensors and plain numbers, for safetensors and JSON: no pickle."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

SEPARATOR = "/"


def taken_apart(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of `optimizer` as tensors on the CPU and numbers, named by their place: "0/exp_avg"."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, value in _leaves(optimizer.state_dict()["state"]):
        if isinstance(value, Tensor):
            tensors[name] = value.detach().cpu().contiguous()
        else:
            numbers[name] = value
    return tensors, numbers


def put_back(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Give `optimizer`, made anew for the same parameters, the state that `taken_apart` returned.

    Raises:
        ValueError: the state belongs to other parameters.
    """
    state: dict[Any, Any] = {}
    for name, value in (*tensors.items(), *numbers.items()):
        index, *path, last = name.split(SEPARATOR)
        place = state.setdefault(int(index), {})
        for step in path:
            place = place.setdefault(step, {})
        place[last] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _leaves(state: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, name + SEPARATOR)
        else:
            yield name, value
