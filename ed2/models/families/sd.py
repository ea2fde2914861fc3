"""Stable Diffusion 1.x and 2.x: UNet, VAE and text encoder as one model to train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from ed2.data.cache import TensorCache
from ed2.models.base import BatchVisits, Conditioning, ImageSizes, ModelSource, Part, Posterior, TextEmbeds
from ed2.models.families.clip import ClipEncoder, EmbedsCache, encode_frozen
from ed2.models.families.facts import FACTS, FamilyFacts
from ed2.models.families.shared import Adapt, Autoencoder, load_parts
from ed2.models.process import Discrete


@dataclass
class StableDiffusion:
    """An SD1 or SD2 model; they differ only in their configurations.

    Attributes:
        cache: embeddings of captions, while all text encoders are frozen.
    """

    facts: FamilyFacts
    source: ModelSource
    parts: Mapping[str, Part]
    process: Discrete
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    clip_skip: int = 0
    caption_chunks: int = 1
    cache: EmbedsCache = field(default_factory=EmbedsCache)
    visits: BatchVisits = field(default_factory=BatchVisits)

    def __post_init__(self) -> None:
        self.unet: Any = self.parts["unet"].module
        self.vae = Autoencoder(self.parts["vae"], self.source)
        self.downscale = self.vae.downscale
        self.latent_scale = self.vae.latent_scale
        num_levels = len(self.source.config("unet/config.json")["block_out_channels"])
        self.size_multiple: int = self.downscale * 2 ** (num_levels - 1)
        self.encoders = [
            ClipEncoder(self.parts[part.name], self.source.tokenizer(part.tokenizer))
            for part in self.facts.text_encoders
        ]

    @classmethod
    def load(
        cls,
        source: ModelSource,
        *,
        trained: Sequence[str],
        device: torch.device,
        frozen_dtype: torch.dtype,
        trained_dtype: torch.dtype = torch.float32,
        adapt: Adapt | None = None,
    ) -> Self:
        """Read a model for training; the arguments are those of `load_parts`.

        Raises:
            ModelError: a part cannot be read.
        """
        parts = load_parts(
            source,
            trained=trained,
            device=device,
            frozen_dtype=frozen_dtype,
            trained_dtype=trained_dtype,
            adapt=adapt,
        )
        process = Discrete.from_config(source.config("scheduler/scheduler_config.json")).to(device)
        return cls(FACTS[source.family], source, parts, process, source.extra())

    @property
    def denoiser(self) -> Any:
        """The UNet."""
        return self.unet

    @property
    def device(self) -> torch.device:
        """The UNet's device."""
        return next(self.unet.parameters()).device

    def encode_pixels(self, pixels: Tensor) -> Posterior:
        """The distribution of latents."""
        return self.vae.encode(pixels)

    def encode_captions(self, captions: Sequence[str]) -> TextEmbeds:
        """What guides the UNet, from all text encoders."""
        if any(encoder.is_trained for encoder in self.encoders):
            return self._encode(captions)
        return encode_frozen(captions, self._encode, self.cache, self.caption_key).to(self.device)

    def caption_key(self, caption: str) -> tuple[str | int, ...]:
        """The caption, what is read of it, and whether mixed precision is on."""
        return caption, self.clip_skip, self.caption_chunks, torch.is_autocast_enabled(self.device.type)

    def use_text_cache(self, store: TensorCache) -> None:
        """Take embeddings from `store` where it has them."""
        self.cache.store = store

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has."""
        return self.encoders[0].count(captions)

    def condition(self, embeds: TextEmbeds, sizes: ImageSizes) -> Conditioning:
        """Only the hidden states; this family does not use sizes."""
        return Conditioning(embeds.hidden)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's prediction."""
        return self.unet(noisy_latents, timesteps, conditioning.hidden).sample

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels."""
        return self.vae.decode(latents)

    def _encode(self, captions: Sequence[str]) -> TextEmbeds:
        [encoder] = self.encoders
        chunks = encoder.chunks(captions, self.caption_chunks)
        self.visits.chunks = chunks.counts
        return TextEmbeds(chunks.by_caption(encoder.last_states(chunks.tokens, self.clip_skip)))


load = StableDiffusion.load
