import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from ed2.models.base import evaluating
from ed2.models.families.sd import StableDiffusion, load
from ed2.models.files.folder import open_folder
from ed2.sampling import sampler
from ed2.sampling.prompt import Prompt
from ed2.sampling.sampler import (
    Guidance,
    SampleOptions,
    denoise,
    draw_samples,
    starting_noise,
)
from ed2.sampling.schedulers import ddim

STEPS = 2


def prompt(index: int = 0, text: str = "a red circle", **changes) -> Prompt:
    return Prompt(**{"index": index, "prompt": text, "seed": 7, "size": (16, 16), "cfgs": (1.0, 4.0), **changes})


def options(**changes) -> SampleOptions:
    return SampleOptions(**{"sampler": "ddim", "num_steps": STEPS, **changes})


def tiles(model: StableDiffusion, prompts: list[Prompt], **changes) -> list[list[bytes]]:
    return [[tile.tobytes() for tile in drawn.tiles] for drawn in draw_samples(model, prompts, options(**changes))]


def guidance_of(model: StableDiffusion, prompt: Prompt) -> Guidance:
    with torch.no_grad():
        return sampler.guidance_of(model, [prompt])


def latents_of(model: StableDiffusion, prompt: Prompt, cfg: float) -> torch.Tensor:
    noise = starting_noise(prompt, latent_channels=4, downscale=model.downscale)[None]
    with torch.no_grad(), evaluating(model):
        latents = denoise(model, noise, guidance_of(model, prompt), cfg, options())
    assert latents is not None
    return latents


def pipeline_of(model: StableDiffusion) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline(
        vae=model.parts["vae"].module,
        text_encoder=model.parts["text_encoder"].module,
        tokenizer=model.encoders[0].tokenizer,
        unet=model.denoiser,
        scheduler=ddim(model.process.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(params=["epsilon_model", "velocity_model"])
def model(request: pytest.FixtureRequest) -> StableDiffusion:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_latents_equal_those_of_the_diffusers_pipeline(model: StableDiffusion, cfg: float) -> None:
    asked = prompt(size=(24, 16), negative_prompt="blurred")
    with evaluating(model):
        expected = pipeline_of(model)(
            asked.prompt,
            negative_prompt=asked.negative_prompt,
            latents=starting_noise(asked, latent_channels=4, downscale=4)[None],
            width=24,
            height=16,
            guidance_scale=cfg,
            num_inference_steps=STEPS,
            output_type="latent",
        ).images
    torch.testing.assert_close(latents_of(model, asked, cfg), expected, rtol=1e-5, atol=1e-5)


def test_tiles_equal_the_images_of_the_diffusers_pipeline(velocity_model: StableDiffusion) -> None:
    asked = prompt(cfgs=(4.0,))
    with evaluating(velocity_model):
        noise = starting_noise(asked, latent_channels=4, downscale=4)[None]
        expected = pipeline_of(velocity_model)(
            asked.prompt, latents=noise, width=16, height=16, guidance_scale=4.0, num_inference_steps=STEPS
        ).images[0]
    (drawn,) = draw_samples(velocity_model, [asked], options())
    difference = np.asarray(drawn.tiles[0], dtype=int) - np.asarray(expected, dtype=int)
    assert np.abs(difference).max() <= 1


def test_ddim_overrides_a_saved_scheduler() -> None:
    scheduler = ddim(
        {"_class_name": "PNDMScheduler", "timestep_spacing": "leading", "clip_sample": True, "steps_offset": 1}
    )
    scheduler.set_timesteps(20)
    assert int(scheduler.timesteps[0]) == 999
    assert not scheduler.config.clip_sample


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ddim_keeps_the_noise_schedule(prediction_type: str) -> None:
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = ddim({**config, "prediction_type": prediction_type})
    assert scheduler.config.prediction_type == prediction_type
    assert scheduler.alphas_cumprod[-1] == pytest.approx(0.0047, abs=1e-4)  # Stable Diffusion's last


def test_a_model_that_knows_the_answer_gives_it_back(epsilon_model: StableDiffusion) -> None:
    """DDIM's only fixed point: with the true noise as prediction, the clean latents come out."""
    scheduler = ddim(epsilon_model.process.config)
    scheduler.set_timesteps(STEPS)
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    latents = scheduler.add_noise(clean, noise, scheduler.timesteps[:1])
    for timestep in scheduler.timesteps:
        latents = scheduler.step(noise, timestep, latents).prev_sample
    last = scheduler.alphas_cumprod[0]
    torch.testing.assert_close(latents, last.sqrt() * clean + (1 - last).sqrt() * noise, rtol=1e-3, atol=1e-3)


def test_starting_noise_depends_on_seed_index_and_size_only() -> None:
    def noise(**changes) -> torch.Tensor:
        return starting_noise(prompt(**changes), latent_channels=4, downscale=4)

    assert torch.equal(noise(), noise(text="another", cfgs=(2.0,), negative_prompt="x"))
    assert not torch.equal(noise(), noise(seed=8))
    assert not torch.equal(noise(), noise(index=1))
    assert noise(size=(24, 16)).shape == (4, 4, 6)


def test_every_cfg_value_starts_from_the_same_noise(
    epsilon_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = sampler.denoise
    monkeypatch.setattr(
        sampler, "denoise", lambda model, noise, *rest: seen.append(noise) or original(model, noise, *rest)
    )
    tiles(epsilon_model, [prompt()])
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])


def test_guidance_has_no_effect_if_prompt_and_negative_are_equal(epsilon_model: StableDiffusion) -> None:
    same = prompt(negative_prompt="a red circle")
    torch.testing.assert_close(latents_of(epsilon_model, same, 7.0), latents_of(epsilon_model, same, 1.0))


def test_guidance_goes_from_the_negative_through_the_prompt(epsilon_model: StableDiffusion) -> None:
    guidance = guidance_of(epsilon_model, prompt(negative_prompt="blue"))
    latents, timestep = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor(500)
    with torch.no_grad():
        at = {c: sampler.guided_prediction(epsilon_model, latents, timestep, guidance, c) for c in (0.0, 1.0, 3.0)}
    torch.testing.assert_close(at[3.0], at[0.0] + 3 * (at[1.0] - at[0.0]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(at[0.0], at[1.0])


def test_the_same_samples_are_drawn_again_byte_for_byte(model: StableDiffusion) -> None:
    prompts = [prompt(0), prompt(1, "a blue square")]
    assert tiles(model, prompts) == tiles(model, prompts)


def test_a_batch_draws_what_single_prompts_draw(velocity_model: StableDiffusion) -> None:
    prompts = [prompt(0), prompt(1, "a blue square"), prompt(2, size=(24, 16))]
    alone = list(draw_samples(velocity_model, prompts, options()))
    together = list(draw_samples(velocity_model, prompts, options(batch_size=3)))
    assert [drawn.prompt for drawn in together] == prompts
    for one, other in zip(alone, together, strict=True):
        for tile, other_tile in zip(one.tiles, other.tiles, strict=True):
            assert tile.size == other_tile.size == one.prompt.size
            assert np.abs(np.asarray(tile, dtype=int) - np.asarray(other_tile, dtype=int)).max() <= 1


def test_global_generators_are_neither_read_nor_moved(velocity_model: StableDiffusion) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = tiles(velocity_model, [prompt()])
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after
    torch.manual_seed(99)
    assert tiles(velocity_model, [prompt()]) == first


def test_modes_and_gradients_are_as_before_even_between_two_results(velocity_model: StableDiffusion) -> None:
    networks = velocity_model.denoiser, velocity_model.parts["vae"].module, velocity_model.parts["text_encoder"].module
    velocity_model.denoiser.mid_block.eval()  # a mode that a plain train() would lose
    modes = [module.training for network in networks for module in network.modules()]
    assert True in modes
    assert False in modes
    seen = []
    original = velocity_model.predict
    velocity_model.predict = lambda *args: seen.append(velocity_model.denoiser.training) or original(*args)
    try:
        for _ in draw_samples(velocity_model, [prompt(0), prompt(1)], options()):
            assert torch.is_grad_enabled()
            assert modes == [module.training for network in networks for module in network.modules()]
    finally:
        del velocity_model.predict
        velocity_model.denoiser.mid_block.train()
    assert seen
    assert not any(seen)
    assert all(parameter.grad is None for parameter in velocity_model.denoiser.parameters())


def test_modes_are_restored_after_a_failure(velocity_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(latents: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no memory")

    monkeypatch.setattr(velocity_model, "decode", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        tiles(velocity_model, [prompt()])
    assert velocity_model.denoiser.training
    assert not velocity_model.parts["vae"].module.training


def calls(answers: list[bool]) -> Callable[[], bool]:
    return lambda: answers.pop(0)


def test_a_stop_between_denoising_steps_ends_the_drawing(epsilon_model: StableDiffusion) -> None:
    per_prompt = STEPS * 2
    answers = [False] * (per_prompt + 2) + [True]
    drawn = list(draw_samples(epsilon_model, [prompt(0), prompt(1)], options(should_stop=calls(answers))))
    assert [one.prompt.index for one in drawn] == [0]
    assert not answers


def test_gradient_checkpointing_changes_nothing(sd1: Path, epsilon_model: StableDiffusion) -> None:
    model = load(open_folder(sd1), trained=("unet",), device=torch.device("cpu"), frozen_dtype=torch.float32)
    model.denoiser.enable_gradient_checkpointing()
    assert tiles(model, [prompt()]) == tiles(epsilon_model, [prompt()])


def test_mixed_precision_draws_nearly_the_same(velocity_model: StableDiffusion) -> None:
    mixed = options(autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    (exact,) = draw_samples(velocity_model, [prompt()], options())
    (rounded,) = draw_samples(velocity_model, [prompt()], mixed)
    difference = np.asarray(exact.tiles[0], dtype=float) - np.asarray(rounded.tiles[0], dtype=float)
    assert 0 < np.abs(difference).mean() < 8


def test_pixels_that_are_not_finite_become_grey() -> None:
    pixels = torch.tensor([float("nan"), -1.0, 1.0]).view(1, 3, 1, 1)
    assert sampler.as_images(pixels)[0].getpixel((0, 0)) == (128, 0, 255)


def test_size_multiple_counts_vae_and_unet(epsilon_model: StableDiffusion) -> None:
    assert epsilon_model.size_multiple == 8
    (drawn,) = draw_samples(epsilon_model, [prompt(size=(40, 56), cfgs=(1.0,))], options())
    assert isinstance(drawn.tiles[0], Image.Image)
    assert drawn.tiles[0].size == (40, 56)
