"""Learning rate schedules: a factor as a function of the update number.

They have no state: the factor depends on the number of the update only, so a resumed run has nothing to restore. A run
that is made longer follows the longer curve from there on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ed2.models.families.facts import PartFacts
from ed2.registry import SCHEDULES
from ed2.settings.schema import Settings

Curve = Callable[[float], float]

CURVE, WARMUP, DECAY = "lr_scheduler", "lr_warmup_steps", "lr_decay_steps"
"""Settings of a schedule, by which `Settings.setting_for` finds those of a network."""
POLYNOMIAL_POWER = 0.9
AUTO_WARMUP = 50
"""A falling schedule without a number of warm-up steps warms up for 1 / 50 of its steps."""


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


def linear(progress: float) -> float:
    """From 1 down to 0 along a straight line."""
    return 1 - progress


def cosine(progress: float) -> float:
    """From 1 down to 0 along half a cosine, ending where training ends.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, one period.
    """
    # A progress above 1 would make the rate rise again.
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def polynomial(progress: float) -> float:
    """From 1 down to 0, a little above the straight line and steeper at the end.

    Source: Chen et al. 2016, arXiv:1606.00915, section 4.1: the "poly" rule with a power of 0.9.
    """
    return float((1 - progress) ** POLYNOMIAL_POWER)


@dataclass(frozen=True)
class Schedule:
    """A warm-up followed by a curve to the end of training.

    Attributes:
        curve: factor as a function of progress, which goes from 0 after the warm-up to 1 at `decay_steps`.
        warmup_steps: updates during which the factor rises, from 1 / warmup_steps so that the first one trains too.
        decay_steps: the update at which the curve ends, and after which the factor stays the same.
    """

    curve: Curve
    warmup_steps: int
    decay_steps: int

    def __call__(self, update: int) -> float:
        """The factor on the learning rate of update number `update`, counted from 0.

        Source of the warm-up: Goyal et al. 2017, arXiv:1706.02677, section 2.2.
        """
        if update < self.warmup_steps:
            # From 1 and not from 0: an update at a rate of 0 would cost a step and train nothing.
            return (update + 1) / self.warmup_steps
        left = self.decay_steps - self.warmup_steps
        return self.curve(min(1.0, (update - self.warmup_steps) / left) if left > 0 else 1.0)


def schedule_of(settings: Settings, part: PartFacts, total_steps: int) -> Schedule:
    """The learning rate schedule of a network, in a run of `total_steps` updates."""
    values: dict[str, Any] = settings.flat()
    name, warmup_steps, decay_steps = (
        values[settings.setting_for(part, setting)] for setting in (CURVE, WARMUP, DECAY)
    )
    end = decay_steps or total_steps
    if warmup_steps is None:
        warmup_steps = 0 if name == "constant" else end // AUTO_WARMUP
    return Schedule(SCHEDULES.load(name), warmup_steps, end)
