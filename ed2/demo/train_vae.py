"""Trains the demo's VAE on drawn images, then folds the latents' mean and spread into it."""

import copy
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from ed2.demo import shapes
from ed2.demo.models import SCALING_FACTOR, new_vae

CROP = 32
KL_WEIGHT = 2e-4


@dataclass(frozen=True)
class VaeSettings:
    """How long the VAE trains; `crop_share` of the steps see 32x32 crops, the rest whole images."""

    num_steps: int
    learning_rate: float
    crop_share: float
    decoder_only: bool = False
    batch_size: int = 16
    clutter_share: float = 0.45
    num_images: int = 6000
    seed: int = 1


def to_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Return uint8 (..., H, W, 3) pixels as floats in -1..1, (B, 3, H, W)."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_pixels(images: torch.Tensor) -> NDArray[np.uint8]:
    """Return floats in -1..1, (B, 3, H, W), as uint8 (B, H, W, 3)."""
    return images.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def draw_pool(settings: VaeSettings) -> NDArray[np.uint8]:
    """Draw the images to learn from: shapes and clutter, (N, 64, 64, 3)."""
    rng = random.Random(settings.seed)
    num_clutter = int(settings.num_images * settings.clutter_share)
    clutter = [shapes.draw_clutter(rng) for _ in range(num_clutter)]
    plain = [shapes.draw_image(rng).pixels for _ in range(settings.num_images - num_clutter)]
    return np.stack(clutter + plain)


def _next_batch(pool: NDArray[np.uint8], rng: random.Random, *, batch_size: int, crop: int) -> torch.Tensor:
    """Return random, randomly mirrored and cropped images of the pool."""
    room = pool.shape[1] - crop
    pieces = []
    for _ in range(batch_size):
        top, left = rng.randint(0, room), rng.randint(0, room)
        piece = pool[rng.randrange(len(pool)), top : top + crop, left : left + crop]
        pieces.append(piece[:, ::-1] if rng.random() < 0.5 else piece)
    return to_tensor(np.stack(pieces)).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(output: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Return L1 + half the squared error + half the L1 of the horizontal and vertical differences."""
    difference = output - pixels
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return difference.abs().mean() + 0.5 * difference.square().mean() + 0.5 * edges


def _vae_loss(vae: AutoencoderKL, pixels: torch.Tensor, *, decoder_only: bool) -> torch.Tensor:
    with torch.set_grad_enabled(not decoder_only):
        posterior = vae.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
    loss = reconstruction_loss(vae.decode(latents).sample, pixels)
    if decoder_only:
        return loss
    return loss + KL_WEIGHT * posterior.kl().mean() / latents[0].numel()


def cosine(step: int, num_steps: int, warmup_steps: int = 20) -> float:
    """Return the learning rate's factor: a short linear start, then half a cosine down to 1 %."""
    decay = 0.5 + 0.5 * math.cos(math.pi * step / num_steps)
    return min(1.0, (step + 1) / warmup_steps) * max(0.01, decay)


@torch.no_grad()
def update_average(average: torch.nn.Module, module: torch.nn.Module, decay: float) -> None:
    """Move the averaged weights towards the module's."""
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in module.parameters()], 1 - decay)


def train_vae(vae: AutoencoderKL, settings: VaeSettings, snapshot_dir: Path) -> AutoencoderKL:
    """Train the VAE, or its decoder alone, and return the averaged weights; saves them every 250 steps."""
    torch.manual_seed(settings.seed)
    rng, pool = random.Random(settings.seed + 1), draw_pool(settings)
    vae = vae.to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(vae).eval().requires_grad_(False)
    trained = [vae.decoder, vae.post_quant_conv] if settings.decoder_only else [vae]
    parameters = [parameter for part in trained for parameter in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=1e-4, fused=True)
    started = time.monotonic()
    for step in range(settings.num_steps):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * cosine(step, settings.num_steps)
        crop = CROP if step < settings.num_steps * settings.crop_share else pool.shape[1]
        pixels = _next_batch(pool, rng, batch_size=settings.batch_size, crop=crop)
        loss = _vae_loss(vae, pixels, decoder_only=settings.decoder_only)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        update_average(average, vae, min(0.995, step / (step + 10)))
        if (step + 1) % 250 == 0:
            average.save_pretrained(snapshot_dir)
            print(f"  vae step {step + 1} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)
    return average


@torch.no_grad()
def encode_moments(vae: AutoencoderKL, pixels: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the posterior's mean and standard deviation, unscaled, for uint8 (B, H, W, 3) pixels."""
    posteriors = [vae.encode(to_tensor(chunk)).latent_dist for chunk in np.array_split(pixels, -(-len(pixels) // 32))]
    return torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors])


@torch.no_grad()
def fold_statistics(vae: AutoencoderKL) -> float:
    """Make the scaled latents zero-mean with unit spread per channel; return the largest change of an image.

    The channels' mean and spread go into the two 1x1 convolutions around the latents, so that the usual scaling
    factor 0.18215 stays right and decoding is unchanged.
    """
    rng = random.Random(9)
    drawn = [shapes.draw_image(rng).pixels for _ in range(192)] + [shapes.draw_clutter(rng) for _ in range(64)]
    pixels = np.stack(drawn)
    means, _ = encode_moments(vae, pixels)
    mean, spread = means.mean((0, 2, 3)), means.std((0, 2, 3)) * SCALING_FACTOR
    probe = to_tensor(pixels[:8])
    before = vae.decode(vae.encode(probe).latent_dist.mean).sample
    into, out_of = vae.quant_conv, vae.post_quant_conv
    into.weight[:4] /= spread[:, None, None, None]
    into.bias[:4] = (into.bias[:4] - mean) / spread
    into.bias[4:] -= 2 * spread.log()
    weight = out_of.weight[:, :, 0, 0].clone()
    out_of.bias += weight @ mean
    out_of.weight.copy_((weight * spread)[:, :, None, None])
    after = vae.decode(vae.encode(probe).latent_dist.mean).sample
    return (before - after).abs().max().item()


def build_vae(settings: VaeSettings, target_dir: Path) -> None:
    """Train a new VAE, fold its statistics and save it."""
    vae = train_vae(new_vae(), settings, target_dir.with_name(target_dir.name + "-snapshot"))
    print(f"  folding changed images by at most {fold_statistics(vae):.1e}")
    vae.save_pretrained(target_dir)


def polish_decoder(source_dir: Path, settings: VaeSettings, target_dir: Path) -> None:
    """Train the saved VAE's decoder further, its encoder frozen, so that latents made with it stay valid."""
    vae = AutoencoderKL.from_pretrained(source_dir)
    train_vae(vae, settings, target_dir.with_name(target_dir.name + "-snapshot")).save_pretrained(target_dir)
