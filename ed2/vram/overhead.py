"""From planned bytes to the memory that a GPU shows as used: assumed at first, then learned from its runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

KEPT = 5
"""How many of a GPU's newest readings count."""
LEAST_SPREAD = 0.02
PLAUSIBLE = (0.5, 2.0)
"""Plausible range of measured over planned; outside it, the reading was of another run or another program."""


@dataclass(frozen=True)
class Overhead:
    """Converts bytes of PyTorch's tensors into the memory that is shown as used.

    Attributes:
        reserved: bytes that PyTorch holds per byte of tensors: lowest, expected and highest.
        context_gb: used by CUDA and its libraries.
        allocated: bytes of tensors measured per byte planned.
        is_measured: whether the figures come from the GPU itself.
    """

    reserved: tuple[float, float, float]
    context_gb: tuple[float, float, float]
    allocated: float = 1.0
    is_measured: bool = False

    def range_of(self, allocated_gb: float) -> tuple[float, float, float]:
        """Memory in use for tensors of `allocated_gb`: lowest, expected and highest."""
        low, expected, high = self.reserved
        least, usual, most = self.context_gb
        return low * allocated_gb + least, expected * allocated_gb + usual, high * allocated_gb + most


ON_CARD = Overhead(reserved=(1.02, 1.05, 1.12), context_gb=(0.35, 0.5, 1.0))
"""Reserved over allocated comes from replaying traces through the allocator's rules, 1.08 at most; the highest is such
that the range holds every published measurement. The rest is estimated."""
ON_CPU = Overhead(reserved=(1.0, 1.05, 1.3), context_gb=(0.5, 0.9, 1.5))
"""Python and its libraries besides the tensors, in system memory."""


@dataclass(frozen=True)
class Reading:
    """The peak of one run's training, in GB of 2**30 bytes.

    Attributes:
        planned_gb: tensors as planned, before any correction.
        allocated_gb: tensors as PyTorch counted them.
        reserved_gb: reserved by PyTorch for them.
        context_gb: used by the program besides that; None if the driver does not say.
    """

    planned_gb: float
    allocated_gb: float
    reserved_gb: float
    context_gb: float | None = None

    @property
    def is_plausible(self) -> bool:
        """Whether plans can learn from it."""
        low, high = PLAUSIBLE
        if self.planned_gb <= 0 or self.allocated_gb > self.reserved_gb:
            return False
        return low * self.planned_gb <= self.allocated_gb <= high * self.planned_gb


def overhead_from(readings: Sequence[Reading]) -> Overhead | None:
    """The overhead of the GPU with these readings, oldest first; None if none of them is plausible."""
    sound = [reading for reading in readings if reading.is_plausible][-KEPT:]
    if not sound:
        return None
    allocated = median(reading.allocated_gb / reading.planned_gb for reading in sound)
    contexts = [reading.context_gb for reading in sound if reading.context_gb is not None]
    return Overhead(
        reserved=_spread([reading.reserved_gb / reading.planned_gb / allocated for reading in sound]),
        context_gb=_spread(contexts) if contexts else ON_CARD.context_gb,
        allocated=allocated,
        is_measured=True,
    )


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    middle = median(values)
    return min(*values, middle * (1 - LEAST_SPREAD)), middle, max(*values, middle * (1 + LEAST_SPREAD))
