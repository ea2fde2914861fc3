import pytest
import torch

from ed2.models.families.sd import StableDiffusion
from ed2.registry import SAMPLERS
from ed2.sampling.prompt import NUM_STEPS, SAMPLER, SAMPLER_AT_ZERO_SNR, Prompt
from ed2.sampling.sampler import SampleOptions, default_sampler, draw_samples


def tiles(model: StableDiffusion, prompts: list[Prompt], batch_size: int) -> list[bytes]:
    options = SampleOptions(num_steps=2, batch_size=batch_size)
    return [drawn.tiles[0].tobytes() for drawn in draw_samples(model, prompts, options)]


@pytest.mark.parametrize(
    ("name", "model_name"), [*((name, "epsilon_model") for name in SAMPLERS), ("dpm++_2m_k", "velocity_model")]
)
def test_every_sampler_draws_the_same_again_and_moves_no_global_generator(
    name: str, model_name: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(model_name)
    prompts = [Prompt(n, f"a cat {n}", 7, (16, 16), cfgs=(4.0,), sampler=name) for n in range(2)]
    before = torch.get_rng_state()
    first = tiles(model, prompts, 2)
    assert first == tiles(model, prompts, 2)
    assert len(set(first)) == 2 and all(len(set(tile)) > 8 for tile in first)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["ddpm", "euler_a", "dpm++_2m_sde"])
def test_noise_added_during_sampling_does_not_depend_on_the_batch(epsilon_model: StableDiffusion, name: str) -> None:
    prompts = [Prompt(n, "a cat", 7, (16, 16), cfgs=(1.0,), sampler=name) for n in range(2)]
    together, alone = (tiles(epsilon_model, prompts, size) for size in (2, 1))
    for one, other in zip(together, alone, strict=True):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 1


def test_prompts_of_different_samplers_are_drawn_in_their_order(epsilon_model: StableDiffusion) -> None:
    prompts = [Prompt(n, "a cat", 7, (16, 16), cfgs=(1.0,), sampler=s) for n, s in enumerate(["euler", None, "pndm"])]
    drawn = draw_samples(epsilon_model, prompts, SampleOptions(num_steps=2, batch_size=4))
    assert [d.prompt.index for d in drawn] == [0, 1, 2]


def drawn_from_a_gaussian(name: str, num_steps: int, *, prediction: str, is_zero_snr: bool) -> torch.Tensor:
    """Samples of a model that predicts exactly what a normal distribution of mean 1 and deviation 0.5 asks for."""
    config = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction,
        "rescale_betas_zero_snr": is_zero_snr,
    }
    scheduler = SAMPLERS.load(name)(config)
    scheduler.set_timesteps(num_steps)
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).view(1, 1, 1, -1)
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        noisy = scheduler.scale_model_input(latents, timestep)
        signal = scheduler.alphas_cumprod[int(timestep)].sqrt()
        deviation = (1 - signal**2).sqrt()
        image = 1 + signal * 0.25 / (signal**2 * 0.25 + deviation**2) * (noisy - signal)
        noise = (noisy - signal * image) / deviation
        predicted = noise if prediction == "epsilon" else signal * noise - deviation * image
        latents = scheduler.step(predicted, timestep, latents).prev_sample
    return latents


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("name", "is_zero_snr"), [(SAMPLER, False), (SAMPLER_AT_ZERO_SNR, True)])
def test_the_default_sampler_is_as_near_to_the_distribution_as_ddim_with_half_as_many_steps_again(
    name: str, is_zero_snr: bool, prediction: str
) -> None:
    ours = drawn_from_a_gaussian(name, NUM_STEPS, prediction=prediction, is_zero_snr=is_zero_snr)
    ddim = drawn_from_a_gaussian("ddim", NUM_STEPS * 3 // 2, prediction=prediction, is_zero_snr=is_zero_snr)
    assert abs(float(ours.mean()) - 1) < abs(float(ddim.mean()) - 1) + 0.01
    assert abs(float(ours.std()) - 0.5) < abs(float(ddim.std()) - 0.5) + 0.01


def test_prompts_without_a_sampler_get_the_default_one(
    epsilon_model: StableDiffusion, velocity_model: StableDiffusion
) -> None:
    for model in (epsilon_model, velocity_model):
        name = default_sampler(model)
        assert name == (SAMPLER_AT_ZERO_SNR if model.process.is_zero_snr else SAMPLER)
        own, default = (
            tiles(model, [Prompt(0, "a cat", 7, (16, 16), cfgs=(4.0,), sampler=s)], 1) for s in (name, None)
        )
        assert own == default
