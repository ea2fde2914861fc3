"""Telling that a driver has begun to use the computer's memory where the card's is full.

Drivers on Windows do so without a word, instead of letting an allocation fail. All goes on, several times slower.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

RECENT_STEPS = 5
STEPS_BEFORE = 15
"""So many steps tell how long one takes while all is well."""
FACTOR = 2.0
"""A step that takes so many times as long as before has become slow: buckets of equal area differ by far less."""
FULL = 0.95
"""Share of a card that is taken when a driver begins: it keeps some hundred megabytes for itself."""

CURE = (
    "Lower batch_size or resolution, or turn on gradient_checkpointing. So that such a run says at once what it lacks: "
    "NVIDIA Control Panel, Manage 3D settings, CUDA - Sysmem Fallback Policy, Prefer No Sysmem Fallback."
)


@dataclass(frozen=True)
class StepReading:
    """How long a step took, and which share of the card's memory was taken then."""

    seconds: float
    fullness: float


def slowdown(readings: Sequence[StepReading]) -> float | None:
    """How many times as long steps take as before, where that looks like a spill; else None.

    Args:
        readings: of the last steps in order, all done under the same conditions.
    """
    before, recent = readings[:-RECENT_STEPS], readings[-RECENT_STEPS:]
    if len(before) < STEPS_BEFORE or min(reading.fullness for reading in recent) < FULL:
        return None
    factor = median(r.seconds for r in recent) / max(median(r.seconds for r in before), 1e-9)
    return factor if factor >= FACTOR else None
