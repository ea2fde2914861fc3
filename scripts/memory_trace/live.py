"""Counting the bytes that are alive after every operation of PyTorch.

`torch.distributed._tools.mem_tracker` does the same under fake tensors: tried, twelve times slower, and a step of
SD 1.5 did not end in five minutes.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

CARD_BLOCK = 512
"""PyTorch hands out a card's memory in multiples of so many bytes."""
CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


class Moment(NamedTuple):
    """What is alive after an operation, in bytes, weights left out."""

    phase: str
    activations: int
    casts: int
    unet_gradients: int
    text_gradients: int
    workspace: int
    """What a convolution on a card takes for itself: copies of all it reads and writes, by pixel."""


class LiveBytes(TorchDispatchMode):
    """While it is entered, keeps a `Moment` for every operation; a tensor counts from its making to its end."""

    def __init__(self, *, block: int = CARD_BLOCK, with_workspace: bool = True) -> None:
        super().__init__()
        self.phase = "forward"
        self.moments: list[Moment] = []
        self._block, self._with_workspace = block, with_workspace
        self._kinds: dict[int, tuple[str, int]] = {}
        self._alive: Counter[str] = Counter()

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Take these for weights, which are there all the time."""
        for tensor in tensors:
            self._add(tensor, "weights")

    def follow_gradients(self, network: nn.Module, kind: str) -> None:
        """Count the gradients of a network's parameters apart from the moment that they are complete."""
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: self.call(p.grad, kind))

    def call(self, tensor: Tensor, kind: str) -> None:
        """Let the bytes of a tensor count as another kind."""
        key = tensor.untyped_storage()._cdata
        before, size = self._kinds[key]
        self._kinds[key] = (kind, size)
        self._alive[before] -= size
        self._alive[kind] += size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [t for t in (result if isinstance(result, tuple | list) else [result]) if isinstance(t, Tensor)]
        for tensor in made:
            self._add(tensor, "activations")
        workspace = 0
        if self._with_workspace and func in CONVOLUTIONS:
            workspace = sum(t.numel() * t.element_size() for t in (*args[:3], *made) if isinstance(t, Tensor))
        kinds = ("activations", "casts", "unet", "text_encoder")
        self.moments.append(Moment(self.phase, *(self._alive[kind] for kind in kinds), workspace))
        return result

    def _add(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._kinds:
            return
        size = -(-storage.nbytes() // self._block) * self._block
        self._kinds[key] = (kind, size)
        self._alive[kind] += size
        weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        kind, size = self._kinds.pop(key)
        self._alive[kind] -= size
