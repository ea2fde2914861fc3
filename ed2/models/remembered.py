"""A store of prompt embeddings, for a text encoder that does not change."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from torch import Tensor

MAX_BYTES = 256 << 20
"""About 2,000 captions of SD1 in half precision."""


@dataclass
class Remembered:
    """Tensors by key, on the CPU; those not asked for the longest time make room for new ones."""

    max_bytes: int = MAX_BYTES
    _tensors: OrderedDict[Hashable, Tensor] = field(default_factory=OrderedDict)
    num_bytes: int = 0

    def __len__(self) -> int:
        return len(self._tensors)

    def of(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of `key`; made, and copied to the CPU, if it is not here."""
        if key in self._tensors:
            self._tensors.move_to_end(key)
            return self._tensors[key]
        tensor = make().to("cpu")
        self._tensors[key] = tensor
        self.num_bytes += tensor.nbytes
        while self.num_bytes > self.max_bytes and len(self._tensors) > 1:
            _, dropped = self._tensors.popitem(last=False)
            self.num_bytes -= dropped.nbytes
        return tensor
