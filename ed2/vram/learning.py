"""What runs on a card teach about the plan: how far its tensors are off, and what the card takes beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ed2.vram.plan import ON_CARD, Overhead

KEPT = 5
"""Readings of a card that count, the newest."""
LEAST_SPREAD = 0.02
PLAUSIBLE = (0.5, 2.0)
"""Measured over planned; beyond, it was another run that was planned, or another program that was measured."""


@dataclass(frozen=True)
class Reading:
    """The peak of one run's training, in GB of 2**30 bytes.

    Attributes:
        planned_gb: tensors as planned, before any correction.
        allocated_gb: tensors as PyTorch counted them.
        reserved_gb: what PyTorch held for them.
        context_gb: what the program took beside that; None where the driver does not say.
    """

    planned_gb: float
    allocated_gb: float
    reserved_gb: float
    context_gb: float | None = None

    @property
    def is_plausible(self) -> bool:
        """Whether it can be learnt from."""
        low, high = PLAUSIBLE
        planned, allocated = self.planned_gb, self.allocated_gb
        return planned > 0 and low * planned <= allocated <= high * planned and allocated <= self.reserved_gb


def learnt(readings: Sequence[Reading]) -> Overhead | None:
    """What to plan with on the card of these readings, oldest first; None where they teach nothing."""
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
