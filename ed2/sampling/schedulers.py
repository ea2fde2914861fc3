"""The samplers, each a function of a saved scheduler's noise schedule and prediction type."""

import inspect
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
)
from numpy.polynomial import Polynomial
from numpy.polynomial.polynomial import polyfromroots
from torch import Tensor

from ed2.models.scheduler_config import BETAS

SCHEDULE = (*BETAS, "prediction_type")
"""The entries of a saved scheduler that samplers other than DDIM use."""
# Saved schedulers mostly say "leading", which never asks the model about full noise, and may clip latents.
OVERRIDES = {"timestep_spacing": "trailing", "set_alpha_to_one": False, "clip_sample": False, "thresholding": False}
SMALLEST_ALPHA = 2.0**-24
LMS_ORDER = 4
"""How many previous derivatives a linear multistep method uses."""

Build = Callable[[Mapping[str, Any]], Any]


def ddim(scheduler_config: Mapping[str, Any]) -> DDIMScheduler:
    """Deterministic DDIM whose first step is at full noise, as the model was trained.

    Takes the noise schedule and the prediction type from a saved scheduler of any class.
    Source: Song et al. 2020, arXiv:2010.02502, equation 12; Lin et al. 2023, arXiv:2305.08891, section 3.3.
    """
    known = inspect.signature(DDIMScheduler.__init__).parameters
    config = {name: value for name, value in scheduler_config.items() if name in known}
    scheduler = DDIMScheduler(**{**config, **OVERRIDES})
    if scheduler.config.prediction_type == "epsilon":
        # At an SNR of exactly 0 a prediction of noise says nothing about the image, and DDIM divides by 0.
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.clamp_min(SMALLEST_ALPHA)
    return scheduler


class LinearMultistepScheduler(EulerDiscreteScheduler):
    """The original's `lms`: over a step, the derivative is the polynomial through the last four.

    This is the Adams-Bashforth method for steps of any length. Source: Crowson, k-diffusion, `sample_lms`. The class in
    diffusers needs scipy for integrals of polynomials, which numpy computes exactly.
    """

    def set_timesteps(self, *args: Any, **named: Any) -> None:
        """Start without earlier derivatives."""
        super().set_timesteps(*args, **named)
        self._past: deque[tuple[float, Tensor]] = deque(maxlen=LMS_ORDER)

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
    """The weight of the derivative at each of `sigmas` in a step: its Lagrange polynomial, integrated."""
    weights = []
    for place, own in enumerate(sigmas):
        others = sigmas[:place] + sigmas[place + 1 :]
        basis = Polynomial(polyfromroots(others)) / np.prod([own - other for other in others])
        integral = basis.integ()
        weights.append(float(integral(after) - integral(before)))
    return weights


def _built(kind: type[Any], scheduler_config: Mapping[str, Any], **own: Any) -> Any:
    """A scheduler of a class whose first step is at full noise and which does not clip latents."""
    known = inspect.signature(kind.__init__).parameters
    schedule = {name: scheduler_config[name] for name in SCHEDULE if name in scheduler_config}
    return kind(**{name: value for name, value in {**schedule, **OVERRIDES, **own}.items() if name in known})


def _solver(kind: type[Any], algorithm: str, *, karras: bool) -> Build:
    """A second-order DPM-Solver. Source: Lu et al. 2022, arXiv:2211.01095."""
    return partial(_built, kind, algorithm_type=algorithm, solver_order=2, use_karras_sigmas=karras)


ddpm: Build = partial(_built, DDPMScheduler)
pndm: Build = partial(_built, PNDMScheduler, skip_prk_steps=True)
lms: Build = partial(_built, LinearMultistepScheduler)
euler: Build = partial(_built, EulerDiscreteScheduler)
euler_a: Build = partial(_built, EulerAncestralDiscreteScheduler)
kdpm2: Build = partial(_built, KDPM2DiscreteScheduler)
dpm_2m = _solver(DPMSolverMultistepScheduler, "dpmsolver++", karras=False)
dpm_2m_k = _solver(DPMSolverMultistepScheduler, "dpmsolver++", karras=True)
dpm_2m_sde = _solver(DPMSolverMultistepScheduler, "sde-dpmsolver++", karras=False)
dpm_2m_sde_k = _solver(DPMSolverMultistepScheduler, "sde-dpmsolver++", karras=True)
dpm_2s = _solver(DPMSolverSinglestepScheduler, "dpmsolver++", karras=False)
dpm_2s_k = _solver(DPMSolverSinglestepScheduler, "dpmsolver++", karras=True)
dpm_sde = _solver(DPMSolverSinglestepScheduler, "sde-dpmsolver++", karras=False)
dpm_sde_k = _solver(DPMSolverSinglestepScheduler, "sde-dpmsolver++", karras=True)
