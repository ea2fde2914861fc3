"""Learning rate schedules: a factor as a function of how much of the run is done.

They keep no state: the step number is all there is, so a resumed run needs nothing restored. A run that is made longer
follows the longer curve from where it is.
"""

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


def cosine(progress: float) -> float:
    """From 1 down to 0 along half a cosine, ending where training ends.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, one period.
    """
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
