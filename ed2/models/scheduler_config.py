"""Whether the configuration of a diffusers scheduler describes a noise schedule to train on. Needs no torch."""

from collections.abc import Mapping
from typing import Any

from ed2.errors import printable, shown

PREDICTION_TYPES = ("epsilon", "v_prediction")
MAX_TIMESTEPS = 100_000
BETAS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
"""The entries that decide how much noise each timestep has."""
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")
"""Those of diffusers' DDPMScheduler."""
NO_SCHEDULE = "its betas do not form a noise schedule"
OTHER_NOISE = ("EDM", "FlowMatch")
"""Beginnings of the names of schedulers whose noise is of another kind."""


def scheduler_problem(config: Mapping[str, Any]) -> str:
    """Why a scheduler's configuration cannot be trained with, without the full stop; empty if it can be."""
    name = str(config.get("_class_name", ""))
    if name.startswith(OTHER_NOISE):
        return f"this model was trained with another kind of noise ({printable(name)}), which cannot be trained here"
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        return f"prediction_type is {shown(prediction_type)}; only epsilon and v_prediction can be trained"
    steps = config.get("num_train_timesteps")
    if steps is not None and not (isinstance(steps, int) and 2 <= steps <= MAX_TIMESTEPS):
        return f"num_train_timesteps is {shown(steps)}; it must be between 2 and {MAX_TIMESTEPS:,}"
    schedule = config.get("beta_schedule")
    if schedule is not None and schedule not in BETA_SCHEDULES:
        return f"beta_schedule is {shown(schedule)}; only {', '.join(BETA_SCHEDULES)} are known"
    if _are_betas_possible(config, steps or 1000):
        return ""
    return NO_SCHEDULE


def _are_betas_possible(config: Mapping[str, Any], steps: int) -> bool:
    """Whether the betas of a configuration are shares, and as many as there are timesteps where each is given."""
    betas = config.get("trained_betas")
    if betas is None:
        ends = (config.get("beta_start"), config.get("beta_end"))
        return all(end is None or _is_share(end) for end in ends)
    return isinstance(betas, list) and len(betas) == steps and all(map(_is_share, betas))


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1
