"""Weights that leave the device while a cache stands in for what they compute, and come back when they are used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn


class _Layout(NamedTuple):
    shape: torch.Size
    stride: tuple[int, ...]


@dataclass
class Absence:
    """Whether the weights of a frozen module are away, and what brings them back bit by bit."""

    _home: torch.device | None = None
    _layouts: dict[str, _Layout] = field(default_factory=dict)

    def leave(self, module: nn.Module, stored: Mapping[str, Tensor]) -> None:
        """Free the device of the weights.

        Args:
            module: computes nothing until its weights come back.
            stored: the same weights in main memory. Without them they wait there; on a CPU they then stay.
        """
        home = next(module.parameters()).device
        if self._home is not None or (home.type == "cpu" and not stored):
            return
        if stored:
            named = module.state_dict(keep_vars=True)
            self._layouts = {name: _Layout(tensor.shape, tensor.stride()) for name, tensor in named.items()}
            for tensor in named.values():
                tensor.data = torch.empty(0, dtype=tensor.dtype, device=home)
        else:
            module.to("cpu")
        self._home = home
        if home.type == "cuda":
            torch.cuda.empty_cache()

    def come_back(self, module: nn.Module, stored: Mapping[str, Tensor]) -> None:
        """Bring the weights back, if they are away."""
        if self._home is None:
            return
        if not stored:
            module.to(self._home)
        for name, tensor in module.state_dict(keep_vars=True).items() if stored else ():
            # The memory layout decides the last bits of sums, so it is restored too.
            layout = self._layouts[name]
            weights = torch.empty_strided(layout.shape, layout.stride, dtype=tensor.dtype, device=self._home)
            tensor.data = weights.copy_(stored[name])
        self._home = None
