"""The samplers beside DDIM, each from the noise schedule and the prediction type of a saved scheduler."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
)

from ed2.sampling.multistep import LinearMultistepScheduler

SCHEDULE = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "rescale_betas_zero_snr",
)  # fmt: skip
"""What is taken over from a saved scheduler."""

Build = Callable[[Mapping[str, Any]], Any]


def built(kind: type[Any], scheduler_config: Mapping[str, Any], **own: Any) -> Any:
    """Make a scheduler of a class whose first step is at full noise and which clips no latents."""
    known = inspect.signature(kind.__init__).parameters
    always = {"timestep_spacing": "trailing", "set_alpha_to_one": False, "clip_sample": False, "thresholding": False}
    schedule = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    config = {
        name: scheduler_config[name] for name in (*schedule, "rescale_betas_zero_snr") if name in scheduler_config
    }
    return kind(**{name: value for name, value in {**config, **always, **own}.items() if name in known})


def _solver(kind: type[Any], algorithm: str, *, karras: bool) -> Build:
    """A second-order DPM-Solver. Source: Lu et al. 2022, arXiv:2211.01095."""
    return partial(built, kind, algorithm_type=algorithm, solver_order=2, use_karras_sigmas=karras)


ddpm: Build = partial(built, DDPMScheduler)
pndm: Build = partial(built, PNDMScheduler, skip_prk_steps=True)
lms: Build = partial(built, LinearMultistepScheduler)
euler: Build = partial(built, EulerDiscreteScheduler)
euler_a: Build = partial(built, EulerAncestralDiscreteScheduler)
kdpm2: Build = partial(built, KDPM2DiscreteScheduler)
dpm_2m = _solver(DPMSolverMultistepScheduler, "dpmsolver++", karras=False)
dpm_2m_k = _solver(DPMSolverMultistepScheduler, "dpmsolver++", karras=True)
dpm_2m_sde = _solver(DPMSolverMultistepScheduler, "sde-dpmsolver++", karras=False)
dpm_2m_sde_k = _solver(DPMSolverMultistepScheduler, "sde-dpmsolver++", karras=True)
dpm_2s = _solver(DPMSolverSinglestepScheduler, "dpmsolver++", karras=False)
dpm_2s_k = _solver(DPMSolverSinglestepScheduler, "dpmsolver++", karras=True)
dpm_sde = _solver(DPMSolverSinglestepScheduler, "sde-dpmsolver++", karras=False)
dpm_sde_k = _solver(DPMSolverSinglestepScheduler, "sde-dpmsolver++", karras=True)
