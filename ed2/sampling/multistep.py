"""Sampling by a linear multistep method, the `lms` of the original."""

from collections import deque
from typing import Any

import numpy as np
from diffusers import EulerDiscreteScheduler
from numpy.polynomial import Polynomial
from numpy.polynomial.polynomial import polyfromroots
from torch import Tensor

ORDER = 4
"""How many of the last derivatives a step looks back on."""


class LinearMultistepScheduler(EulerDiscreteScheduler):
    """Euler's method that looks back: the derivative over a step is the polynomial through the last four.

    It is the method of Adams and Bashforth for steps of any length. Source: Crowson, k-diffusion, `sample_lms`. The
    library's own class needs scipy for integrals of polynomials, which numpy has exactly.
    """

    def set_timesteps(self, *args: Any, **named: Any) -> None:
        """Begin anew, with nothing to look back on."""
        super().set_timesteps(*args, **named)
        self._past: deque[tuple[float, Tensor]] = deque(maxlen=ORDER)

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> Any:
        """Return the sample at the next timestep as `prev_sample`."""
        euler = super().step(model_output, timestep, sample)
        before, after = (float(self.sigmas[self.step_index - back]) for back in (1, 0))
        self._past.append((before, (sample - euler.pred_original_sample) / before))
        weights = step_weights([sigma for sigma, _ in self._past], before, after)
        moved = sum(weight * derivative for weight, (_, derivative) in zip(weights, self._past, strict=True))
        euler.prev_sample = (sample + moved).to(model_output.dtype)
        return euler


def step_weights(sigmas: list[float], before: float, after: float) -> list[float]:
    """Return what the derivative at each of `sigmas` counts in a step: its Lagrange polynomial, integrated."""
    weights = []
    for place, own in enumerate(sigmas):
        others = sigmas[:place] + sigmas[place + 1 :]
        basis = Polynomial(polyfromroots(others)) / np.prod([own - other for other in others])
        integral = basis.integ()
        weights.append(float(integral(after) - integral(before)))
    return weights
