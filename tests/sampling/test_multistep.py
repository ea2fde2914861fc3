"""The linear multistep sampler against an equation whose solution is known."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from ed2.sampling.schedulers import LinearMultistepScheduler, step_weights

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}


def end_of(kind: type[EulerDiscreteScheduler], num_steps: int) -> float:
    """Where dx / dsigma = x / sigma * 0.5 leads from x = sqrt(sigma): to sqrt(sigma) at each sigma."""
    scheduler = kind(**SCHEDULE)
    scheduler.set_timesteps(num_steps)
    x = scheduler.sigmas[0].sqrt().reshape(1)
    for place, timestep in enumerate(scheduler.timesteps[:-1]):
        scheduler.scale_model_input(x, timestep)
        x = scheduler.step(x / scheduler.sigmas[place] / 2, timestep, x).prev_sample
    return abs(float(x) - float(scheduler.sigmas[-2].sqrt()))


def test_it_comes_much_nearer_to_the_solution_than_eulers_method() -> None:
    assert end_of(LinearMultistepScheduler, 30) < 0.1 * end_of(EulerDiscreteScheduler, 30)


def test_steps_of_equal_length_have_the_weights_of_adams_and_bashforth() -> None:
    # Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, table III.1.1.
    assert step_weights([3, 2, 1, 0], 0, -1) == pytest.approx([9 / 24, -37 / 24, 59 / 24, -55 / 24])
    assert step_weights([5.0], 5.0, 3.0) == [-2.0]


def test_a_constant_derivative_is_followed_exactly() -> None:
    scheduler = LinearMultistepScheduler(**SCHEDULE)
    scheduler.set_timesteps(6)
    x = torch.zeros(2, 3)
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(x, timestep)
        x = scheduler.step(torch.ones(2, 3), timestep, x).prev_sample
    assert torch.allclose(x, -scheduler.sigmas[0].expand(2, 3), rtol=1e-4)
