"""Loss and gradients against a plain reference, written from the papers with diffusers' own schedulers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ed2.data.batch import Batch, as_numbers, stacked
from ed2.data.variants import VisitKey
from ed2.draws import rng
from ed2.models.families.sd import load
from ed2.models.files.folder import open_folder
from ed2.training.objective import Objective, mse
from tests.tiny import uncropped

SEED = 7
CPU = torch.device("cpu")


def batch_of(count: int, size: tuple[int, int] = (64, 48)) -> Batch:
    width, height = size
    pixels = stacked(list(np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype=np.uint8)))
    visits = tuple(VisitKey(2, f"0/{number}.png", 0) for number in range(count))
    captions = tuple(f"an image of number {number}" for number in range(count))
    names = tuple(visit.key for visit in visits)
    return Batch(pixels, captions, torch.ones(count), visits, names, size, *uncropped(size, count))


def test_the_size_of_the_images_is_told_before_they_are_encoded(sd1: Path) -> None:
    told: list[tuple[int, int]] = []
    model = load(open_folder(sd1), trained=["unet"], device=CPU, frozen_dtype=torch.float32)
    objective = Objective(model, mse, SEED, CPU, make_room=told.append, on_encoded=lambda *_: told.append((0, 0)))
    objective(batch_of(1, (64, 48)))
    objective(batch_of(2, (32, 64)))
    assert told == [(64, 48), (0, 0), (32, 64), (0, 0)]


def drawn(what: str, visits: tuple[VisitKey, ...], shape: tuple[int, ...]) -> Tensor:
    return torch.stack([torch.from_numpy(rng(SEED, what, *v).standard_normal(shape, dtype=np.float32)) for v in visits])


def reference(folder: Path, batch: Batch) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
    """Loss per image and gradients of its sum, by the book."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    shape = (4, batch.bucket[1] // 4, batch.bucket[0] // 4)
    with torch.no_grad():
        posterior = vae.encode(as_numbers(batch.pixels, CPU)).latent_dist
        latents = (posterior.mean + posterior.std * drawn("latent", batch.visits, shape)) * 0.18215
    noise = drawn("noise", batch.visits, shape)
    timesteps = torch.tensor([rng(SEED, "timestep", *visit).integers(1000) for visit in batch.visits])
    noisy = scheduler.add_noise(latents, noise, timesteps)
    is_epsilon = scheduler.config.prediction_type == "epsilon"
    target = noise if is_epsilon else scheduler.get_velocity(latents, noise, timesteps)
    tokens = tokenizer(list(batch.captions), padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    prediction = unet(noisy, timesteps, text_encoder(tokens.input_ids)[0]).sample
    losses = torch.stack([F.mse_loss(p, t) for p, t in zip(prediction, target, strict=True)])
    losses.sum().backward()
    networks = {"unet": unet, "text_encoder": text_encoder}
    return losses.detach(), {name: gradients(network) for name, network in networks.items()}


def gradients(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))


@pytest.fixture(params=["sd1", "sd2"])
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def test_loss_and_gradients_equal_a_plain_reference(folder: Path) -> None:
    model = load(open_folder(folder), trained=["unet", "text_encoder"], device=CPU, frozen_dtype=torch.float32)
    batch = batch_of(3)
    losses = Objective(model, mse, SEED, CPU)(batch)
    losses.sum().backward()
    expected, expected_gradients = reference(folder, batch)
    assert relative(losses.detach(), expected) < 1e-5
    for name in ("unet", "text_encoder"):
        ours = gradients(model.parts[name].module)
        assert ours.keys() == expected_gradients[name].keys()
        worst = max(relative(ours[key], grad) for key, grad in expected_gradients[name].items() if grad.norm() > 1e-6)
        assert worst < 1e-5


def test_an_image_gets_the_same_draws_alone_and_in_a_batch(sd1: Path) -> None:
    model = load(open_folder(sd1), trained=["unet"], device=CPU, frozen_dtype=torch.float32)
    objective: Callable[[Batch], Tensor] = Objective(model, mse, SEED, CPU)
    whole = batch_of(4)
    with torch.no_grad():
        together = objective(whole)
        alone = torch.cat([objective(whole.part(i, i + 1)) for i in range(4)])
    assert torch.allclose(together, alone, rtol=1e-4)


def test_a_frozen_text_encoder_gets_no_graph_and_a_frozen_unet_no_gradient(sd1: Path) -> None:
    model = load(open_folder(sd1), trained=["text_encoder"], device=CPU, frozen_dtype=torch.float32)
    Objective(model, mse, SEED, CPU)(batch_of(1)).sum().backward()
    assert gradients(model.parts["text_encoder"].module)
    assert not gradients(model.denoiser)
    model = load(open_folder(sd1), trained=["unet"], device=CPU, frozen_dtype=torch.float32)
    assert not model.encode_captions(["a cat"]).hidden.requires_grad


def test_loss_scale_weights_an_image(sd1: Path) -> None:
    model = load(open_folder(sd1), trained=["unet"], device=CPU, frozen_dtype=torch.float32)
    objective = Objective(model, mse, SEED, CPU)
    batch = batch_of(2)
    scaled = replace(batch, loss_scale=torch.tensor([1.0, 0.25]))
    with torch.no_grad():
        plain, weighed = objective(batch), objective(scaled)
    assert torch.allclose(weighed, plain * torch.tensor([1.0, 0.25]))
