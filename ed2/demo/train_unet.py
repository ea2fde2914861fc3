"""Trains the demo's UNet on drawn images, encoded once; the text encoder and the VAE are frozen."""

import copy
import random
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ed2.demo import shapes
from ed2.demo.models import SCALING_FACTOR, new_unet, tokenize, training_scheduler
from ed2.demo.train_vae import cosine, encode_moments, update_average

CAPTION_DROPOUT = 0.1
BUCKET_SHARES = (6, 2, 2)
MUON_COEFFICIENTS, NUM_ITERATIONS = (3.4445, -4.7750, 2.0315), 5


@dataclass(frozen=True)
class UnetSettings:
    """How long and how fast the UNet trains; `num_images` are drawn and encoded beforehand."""

    num_steps: int
    batch_size: int = 16
    matrix_rate: float = 0.01
    other_rate: float = 1e-3
    num_images: int = 4800
    seed: int = 3


@dataclass(frozen=True)
class EncodedBucket:
    """All images of one size: scaled latent means and deviations, and the text encoder's states."""

    means: torch.Tensor
    deviations: torch.Tensor
    prompt_embeds: torch.Tensor


@torch.no_grad()
def embed(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, captions: list[str]) -> torch.Tensor:
    """Return the text encoder's last hidden states, (captions, 77, width)."""
    token_ids = tokenize(tokenizer, captions)
    return torch.cat([text_encoder(chunk)[0] for chunk in token_ids.split(100)])


def encode_images(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, settings: UnetSettings
) -> list[EncodedBucket]:
    """Draw the training images and encode them, one bucket per size."""
    rng = random.Random(settings.seed)
    buckets = []
    for size, share in zip(shapes.BUCKETS, BUCKET_SHARES, strict=True):
        num_images = settings.num_images * share // sum(BUCKET_SHARES)
        images = [shapes.draw_image(rng, size) for _ in range(num_images)]
        means, deviations = encode_moments(vae, np.stack([image.pixels for image in images]))
        prompt_embeds = embed(tokenizer, text_encoder, [image.caption for image in images])
        buckets.append(EncodedBucket(means * SCALING_FACTOR, deviations * SCALING_FACTOR, prompt_embeds))
    return buckets


def stratified_timesteps(batch_size: int) -> torch.Tensor:
    """Return one random timestep from each of `batch_size` equal parts of 0..999, shuffled."""
    positions = (torch.arange(batch_size) + torch.rand(batch_size)) / batch_size
    return (positions * 1000).long().clamp(max=999)[torch.randperm(batch_size)]


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Return the matrices, (count, rows, columns), with all singular values near 1.

    Each iteration multiplies x by a polynomial of x @ x.mT; so the polynomials' product is found from that small
    square alone, and applied once.

    Source: Jordan et al. 2024, Muon, the quintic Newton-Schulz iteration.
    """
    a, b, c = MUON_COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    identity = torch.eye(x.shape[-2])
    square, product = x @ x.mT, identity
    for iteration in range(NUM_ITERATIONS):
        factor = torch.baddbmm(a * identity + b * square, square, square, alpha=c)
        product = factor @ product if iteration else factor
        if iteration + 1 < NUM_ITERATIONS:
            square = factor @ square @ factor
    x = product @ x
    return x.mT if tall else x


class Muon:
    """Muon: momentum whose matrices are made nearly orthogonal; fewer steps than AdamW for a short training.

    For weights of two or more dimensions; those beyond the first count as one (convolutions).
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], momentum: float = 0.95) -> None:
        self.momentum = momentum
        self.by_shape: dict[tuple[int, int], list[torch.nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            self.by_shape[parameter.shape[0], parameter[0].numel()].append(parameter)
        self.averages = {shape: torch.zeros(len(group), *shape) for shape, group in self.by_shape.items()}

    @torch.no_grad()
    def step(self, learning_rate: float, weight_decay: float = 0.01) -> None:
        """Update all parameters from their gradients; equal shapes are orthogonalized together."""
        for shape, parameters in self.by_shape.items():
            gradients = torch.stack([_gradient(parameter).reshape(shape) for parameter in parameters])
            average = self.averages[shape].lerp_(gradients, 1 - self.momentum)
            updates = orthogonalize(gradients.lerp(average, self.momentum))
            size = max(1.0, shape[0] / shape[1]) ** 0.5
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.mul_(1 - learning_rate * weight_decay)
                parameter.add_(update.reshape(parameter.shape), alpha=-learning_rate * size)


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


class UnetTrainer:
    """The UNet under training, its averaged copy, and its two optimizers: Muon for matrices, AdamW for the rest."""

    def __init__(self, buckets: list[EncodedBucket], empty_embeds: torch.Tensor, settings: UnetSettings) -> None:
        torch.manual_seed(settings.seed)
        self.rng = random.Random(settings.seed)
        self.buckets, self.empty_embeds, self.settings = buckets, empty_embeds, settings
        self.unet: UNet2DConditionModel = new_unet().to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.unet).eval().requires_grad_(False)
        self.scheduler = training_scheduler()
        parameters = list(self.unet.named_parameters())
        matrices = [p for name, p in parameters if p.ndim >= 2 and "conv_in" not in name and "conv_out" not in name]
        known = {id(parameter) for parameter in matrices}
        others = [p for _, p in parameters if id(p) not in known]
        self.muon = Muon(matrices)
        self.adamw = torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.01, fused=True)

    def draw_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents and prompt embeddings of one bucket, some captions left out."""
        bucket = self.rng.choices(self.buckets, BUCKET_SHARES)[0]
        chosen = torch.randint(0, len(bucket.means), (self.settings.batch_size,))
        means = bucket.means[chosen]
        latents = means + bucket.deviations[chosen] * torch.randn_like(means)
        prompt_embeds = bucket.prompt_embeds[chosen]
        prompt_embeds[torch.rand(len(chosen)) < CAPTION_DROPOUT] = self.empty_embeds
        return latents, prompt_embeds

    def loss(self, latents: torch.Tensor, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error of the predicted velocity."""
        noise, timesteps = torch.randn_like(latents), stratified_timesteps(len(latents))
        noisy_latents = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        noisy_latents = noisy_latents.contiguous(memory_format=torch.channels_last)
        prediction = self.unet(noisy_latents, timesteps, prompt_embeds, return_dict=False)[0]
        return (prediction - target).square().mean()

    def step(self, step: int) -> float:
        """Make one update and return its loss."""
        factor = cosine(step, self.settings.num_steps, warmup_steps=40)
        loss = self.loss(*self.draw_batch())
        self.unet.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.muon.step(self.settings.matrix_rate * factor)
        self.adamw.param_groups[0]["lr"] = self.settings.other_rate * factor
        self.adamw.step()
        update_average(self.average, self.unet, min(0.995, step / (step + 10)))
        return loss.item()


def train_unet(trainer: UnetTrainer, snapshot_dir: Path) -> UNet2DConditionModel:
    """Train to the end and return the averaged weights; saves them every 250 steps."""
    started, recent = time.monotonic(), 1.0
    for step in range(trainer.settings.num_steps):
        recent += 0.02 * (trainer.step(step) - recent)
        if (step + 1) % 250 == 0:
            trainer.average.save_pretrained(snapshot_dir)
            print(f"  unet step {step + 1} loss {recent:.4f} {time.monotonic() - started:.0f} s", flush=True)
    return trainer.average


def build_unet(work_dir: Path, settings: UnetSettings, target_dir: Path) -> None:
    """Train a new UNet with the tokenizer, text encoder and VAE in the work folder, and save it."""
    tokenizer = CLIPTokenizer.from_pretrained(work_dir / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(work_dir / "text_encoder").eval()
    vae = AutoencoderKL.from_pretrained(work_dir / "vae").eval()
    buckets = encode_images(vae, tokenizer, text_encoder, settings)
    trainer = UnetTrainer(buckets, embed(tokenizer, text_encoder, [""])[0], settings)
    train_unet(trainer, target_dir.with_name(target_dir.name + "-snapshot")).save_pretrained(target_dir)
