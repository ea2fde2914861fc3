"""What the trainer asks of a model family."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from ed2.models.noise import NoiseSchedule


class DiffusionModel(Protocol):
    """A latent diffusion model: encoders, a network that predicts, and its noise schedule.

    No base class is asked for; a family is a class with these names.
    """

    family: str
    """Name of the family: sd1, sd2."""
    noise_schedule: NoiseSchedule
    latent_channels: int
    downscale: int
    """Pixels per latent along one side."""

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        """The networks that are trained, by name."""
        ...

    def encode_pixels(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Latents (B,C,h,w) of pixels (B,3,H,W) in [-1, 1]: mean + deviation * noise, scaled to about unit variance."""
        ...

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Prompt embeddings (B,77,D); with a graph only where the text encoder is trained."""
        ...

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """The network's prediction, shape of `noisy_latents`."""
        ...


class ModelSource(Protocol):
    """A base model on the disk: a diffusers folder or a single file."""

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    @property
    def family(self) -> str:
        """Name of the family."""
        ...

    @property
    def small_files(self) -> Mapping[str, bytes]:
        """Every file of a diffusers folder but the weights, by its path there."""
        ...

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """How each part's weights are stored."""
        ...

    def config(self, name: str) -> dict[str, Any]:
        """One of the small files that is JSON."""
        ...

    def read(self, part: str) -> nn.Module:
        """Read one part in fp32."""
        ...

    def tokenizer(self) -> CLIPTokenizer:
        """Its tokenizer."""
        ...

    def extra(self) -> dict[str, Tensor]:
        """Tensors that have no place in a diffusers folder, by their names in a single file."""
        ...
