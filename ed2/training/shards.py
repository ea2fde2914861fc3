"""Which process of a run updates each parameter, and keeps its optimizer state.

Source: Rajbhandari et al. 2020, arXiv:1910.02054, section 5.1 (ZeRO, stage 1); here by whole parameters.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Shards:
    """The owners of parameters. Of a parameter without one, every process keeps the state and computes the update.

    Attributes:
        rank: this process.
        owners: the process of each parameter that has one.
    """

    rank: int = 0
    owners: Mapping[Tensor, int] = field(default_factory=dict)

    @classmethod
    def deal(cls, parameters: Sequence[Tensor], rank: int, size: int) -> "Shards":
        """Give each parameter, the largest first, to the process that has the fewest numbers so far."""
        if size == 1:
            return cls()
        loads = [(0, owner) for owner in range(size)]
        owners = {}
        for parameter in sorted(parameters, key=lambda own: -own.numel()):
            numbers, owner = loads[0]
            owners[parameter] = owner
            heapq.heapreplace(loads, (numbers + parameter.numel(), owner))
        return cls(rank, owners)

    def is_here(self, parameter: Tensor) -> bool:
        """Whether this process keeps the state of a parameter."""
        return self.owners.get(parameter, self.rank) == self.rank

    def by_owner(self, parameters: Iterable[Tensor]) -> dict[int, list[Tensor]]:
        """Those of `parameters` that have an owner, in their order."""
        found: dict[int, list[Tensor]] = {}
        for parameter in parameters:
            if parameter in self.owners:
                found.setdefault(self.owners[parameter], []).append(parameter)
        return found
