"""SDXL against diffusers' own pipeline, and what it is conditioned on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionXLPipeline
from torch import Tensor

from ed2.data.batch import Batch, as_numbers, stacked
from ed2.data.variants import VisitKey
from ed2.draws import rng
from ed2.models.base import ImageSizes, TextEmbeds
from ed2.models.families.sdxl import StableDiffusionXL, load
from ed2.models.files.folder import open_folder
from ed2.sampling.prompt import Prompt
from ed2.sampling.sampler import GUIDANCE_RESCALE, SampleOptions, denoise, guidance_of, starting_noise
from ed2.training.objective import Objective, mse
from tests.tiny import uncropped

CPU = torch.device("cpu")
SEED = 7
NETWORKS = ("unet", "text_encoder", "text_encoder_2")
ALIKE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=["epsilon", "v_prediction", "zero terminal SNR"])
def folder(request: pytest.FixtureRequest, sdxl: Path, tmp_path: Path) -> Path:
    """The tiny model, predicting noise, v, or v with zero terminal SNR."""
    copy = shutil.copytree(sdxl, tmp_path / request.param)
    file = copy / "scheduler" / "scheduler_config.json"
    own = {"prediction_type": request.param}
    if request.param == "zero terminal SNR":
        own = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    return copy


def model_of(folder: Path, *trained: str) -> StableDiffusionXL:
    return load(open_folder(folder), trained=trained, device=CPU, frozen_dtype=torch.float32)


def pipeline_of(folder: Path) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    own = {"timestep_spacing": "trailing", "set_alpha_to_one": False, "clip_sample": False}
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **own)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def encoded(pipeline: StableDiffusionXLPipeline, captions: list[str]) -> tuple[Tensor, Tensor]:
    hidden, _, pooled, _ = pipeline.encode_prompt(captions, device=CPU, do_classifier_free_guidance=False)
    return hidden, pooled


@pytest.mark.parametrize("trained", [(), ("text_encoder_2",)], ids=["frozen", "one trained"])
def test_embeddings_and_pooled_vectors_equal_those_of_diffusers(sdxl: Path, trained: tuple[str, ...]) -> None:
    captions = ["a red circle", "a very " + "long " * 100 + "caption"]
    embeds = model_of(sdxl, *trained).encode_captions(captions)
    hidden, pooled = encoded(pipeline_of(sdxl), captions)
    assert embeds.pooled is not None
    torch.testing.assert_close(embeds.hidden, hidden, **ALIKE)
    torch.testing.assert_close(embeds.pooled, pooled, **ALIKE)


def test_an_empty_caption_is_zeros_as_diffusers_and_web_uis_take_an_empty_negative_prompt(sdxl: Path) -> None:
    both = pipeline_of(sdxl).encode_prompt("a cat", device=CPU, do_classifier_free_guidance=True)
    embeds = model_of(sdxl).encode_captions(["", "a cat", "  "])
    assert embeds.pooled is not None
    assert torch.equal(embeds.hidden[0], both[1][0])
    assert torch.equal(embeds.pooled[0], both[3][0])
    assert not embeds.hidden[2].any()
    assert embeds.hidden[1].any()


def test_clip_skip_counts_as_web_uis_do(sdxl: Path) -> None:
    model, pipeline = model_of(sdxl), pipeline_of(sdxl)
    usual = model.encode_captions(["a cat"]).hidden
    for same in (1, 2):
        model.clip_skip = same
        assert torch.equal(model.encode_captions(["a cat"]).hidden, usual)
    model.clip_skip = 3
    hidden, *_ = pipeline.encode_prompt("a cat", device=CPU, do_classifier_free_guidance=False, clip_skip=1)
    torch.testing.assert_close(model.encode_captions(["a cat"]).hidden, hidden, **ALIKE)


def test_sizes_become_the_six_numbers_of_diffusers(sdxl: Path) -> None:
    model, pipeline = model_of(sdxl), pipeline_of(sdxl)
    sizes = ImageSizes(torch.tensor([[2000, 3000]]), torch.tensor([[0, 4]]), torch.tensor([[832, 1216]]))
    found = model.condition(TextEmbeds(torch.zeros(1, 77, 64), torch.zeros(1, 32)), sizes).added["time_ids"]
    expected = pipeline._get_add_time_ids(
        (2000, 3000), (0, 4), (832, 1216), torch.float32, pipeline.text_encoder_2.config.projection_dim
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("negative", ["blurred", ""])
def test_samples_equal_those_of_diffusers(folder: Path, cfg: float, negative: str) -> None:
    asked = Prompt(index=0, prompt="a red circle", seed=SEED, size=(24, 16), cfgs=(cfg,), negative_prompt=negative)
    model = model_of(folder)
    noise = starting_noise(asked, latent_channels=4, downscale=4)[None]
    expected = pipeline_of(folder)(
        asked.prompt,
        negative_prompt=negative or None,
        latents=noise,
        width=24,
        height=16,
        guidance_scale=cfg,
        guidance_rescale=GUIDANCE_RESCALE if model.process.is_zero_snr else 0.0,
        num_inference_steps=2,
        output_type="latent",
    ).images
    with torch.no_grad():
        latents = denoise(model, noise, guidance_of(model, [asked]), cfg, SampleOptions(sampler="ddim", num_steps=2))
    assert latents is not None
    assert float((latents - expected).norm() / expected.norm()) < 1e-5


def batch_of_three() -> Batch:
    size = (64, 48)
    pixels = stacked(list(np.random.default_rng(1).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)))
    visits = tuple(VisitKey(2, f"0/{number}.png", 0) for number in range(3))
    original, crop = uncropped(size, 3)
    names = tuple(visit.key for visit in visits)
    captions = ("a red circle", "", "an image of a square")
    return Batch(pixels, captions, torch.ones(3), visits, names, size, original * 3, crop + torch.tensor([2, 5]))


def drawn(what: str, batch: Batch) -> Tensor:
    each = [rng(SEED, what, *visit).standard_normal((4, 12, 16), dtype=np.float32) for visit in batch.visits]
    return torch.from_numpy(np.stack(each))


def plain_losses(pipeline: StableDiffusionXLPipeline, scheduler: DDPMScheduler, batch: Batch) -> Tensor:
    """The loss of each image by the book, with diffusers' encoding of captions and its numbers for sizes."""
    with torch.no_grad():
        posterior = pipeline.vae.encode(as_numbers(batch.pixels, CPU)).latent_dist
        latents = (posterior.mean + posterior.std * drawn("latent", batch)) * 0.13025
    noise = drawn("noise", batch)
    timesteps = torch.tensor([rng(SEED, "timestep", *visit).integers(1000) for visit in batch.visits])
    noisy = scheduler.add_noise(latents, noise, timesteps)
    is_epsilon = scheduler.config.prediction_type == "epsilon"
    target = noise if is_epsilon else scheduler.get_velocity(latents, noise, timesteps)
    losses = []
    for index, caption in enumerate(batch.captions):
        hidden, pooled = torch.zeros(1, 77, 64), torch.zeros(1, 32)
        if caption:
            hidden, pooled = encoded(pipeline, [caption])
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[144, 192, 2, 5, 48, 64]])}
        prediction = pipeline.unet(noisy[index][None], timesteps[index], hidden, added_cond_kwargs=added).sample
        losses.append(F.mse_loss(prediction[0], target[index]))
    return torch.stack(losses)


def test_gradients_of_a_step_equal_a_plain_reference(folder: Path) -> None:
    model = model_of(folder, *NETWORKS)
    batch = batch_of_three()
    losses = Objective(model, mse, SEED, CPU)(batch)
    losses.sum().backward()
    pipeline, scheduler = pipeline_of(folder), DDPMScheduler.from_pretrained(folder / "scheduler")
    expected = plain_losses(pipeline, scheduler, batch)
    expected.sum().backward()
    torch.testing.assert_close(losses, expected, **ALIKE)
    for name in NETWORKS:
        theirs = {key: p.grad for key, p in getattr(pipeline, name).named_parameters() if p.grad is not None}
        ours = {key: p.grad for key, p in model.parts[name].module.named_parameters() if p.grad is not None}
        assert ours.keys() == theirs.keys()
        for key, gradient in theirs.items():
            if gradient.norm() > 1e-6:
                assert float((ours[key] - gradient).norm() / gradient.norm()) < 1e-5, key


def test_the_vae_computes_in_bf16_or_fp32_but_never_in_fp16(sdxl: Path) -> None:
    for frozen, expected in ((torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)):
        model = load(open_folder(sdxl), trained=("unet",), device=CPU, frozen_dtype=frozen)
        assert model.parts["vae"].module.dtype is expected
        assert model.parts["text_encoder_2"].module.dtype is frozen
