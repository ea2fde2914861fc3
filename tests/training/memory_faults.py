"""Out-of-memory errors raised inside the real code: at chosen operations, or for too many images."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

TEXT = "CUDA out of memory. Tried to allocate 2.00 GiB"


NEEDS_NONE = ("profiler::", "aten::_local_scalar_dense")
"""Operations that are no work, or read a number from the device."""


class OutOfMemoryAt(TorchDispatchMode):
    """Raises at some of the operations that allocate, counted from 0 in the order in which they are done."""

    def __init__(self, at: Iterable[int], error: Callable[[], Exception] = lambda: torch.OutOfMemoryError(TEXT)):
        super().__init__()
        self.at, self.count, self.error = set(at), 0, error
        self.was_raised = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func._schema.is_mutable and not func._schema.name.startswith(NEEDS_NONE):  # writing allocates nothing
            self.count += 1
            if self.count - 1 in self.at:
                self.was_raised = True
                raise self.error()
        return func(*args, **(kwargs or {}))


def at_most(module: torch.nn.Module, images: int) -> torch.utils.hooks.RemovableHandle:
    """Let a network run out of memory on more than so many images."""

    def check(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > images:
            raise torch.OutOfMemoryError(TEXT)

    return module.register_forward_pre_hook(check)
