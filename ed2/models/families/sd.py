"""Stable Diffusion 1.x and 2.x: UNet, VAE and text encoder as one model to train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ed2.models.base import Conditioning, ImageSizes, ModelSource, Part, Posterior, TextEmbeds
from ed2.models.families.facts import FACTS, FamilyFacts
from ed2.models.families.shared import EmbedsCache, load_part
from ed2.models.process import Discrete

SPECIAL_TOKENS = 2
"""The start and end tokens around a caption."""


@dataclass
class StableDiffusion:
    """An SD1 or SD2 model; they differ only in their configurations.

    Attributes:
        cache: prompt embeddings, while the text encoder is frozen.
    """

    facts: FamilyFacts
    source: ModelSource
    parts: Mapping[str, Part]
    process: Discrete
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    clip_skip: int = 0
    cache: EmbedsCache = field(default_factory=EmbedsCache)

    def __post_init__(self) -> None:
        self.unet: Any = self.parts["unet"].module
        self.vae: Any = self.parts["vae"].module
        self.text_encoder: Any = self.parts["text_encoder"].module
        self.tokenizer = self.source.tokenizer()
        self.max_tokens: int = self.tokenizer.model_max_length - SPECIAL_TOKENS
        config = self.source.config("vae/config.json")
        self.downscale: int = 2 ** (len(config["block_out_channels"]) - 1)
        self.latent_scale: float = config.get("scaling_factor", self.facts.latent_scale)
        num_levels = len(self.source.config("unet/config.json")["block_out_channels"])
        self.size_multiple: int = self.downscale * 2 ** (num_levels - 1)

    @property
    def denoiser(self) -> Any:
        """The UNet."""
        return self.unet

    @property
    def device(self) -> torch.device:
        """The UNet's device."""
        return next(self.unet.parameters()).device

    def encode_pixels(self, pixels: Tensor) -> Posterior:
        """The distribution of latents, in fp32; image by image, which bounds the memory."""
        dtype = next(self.vae.parameters()).dtype
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):  # the VAE has a precision of its own
            posteriors = [self.vae.encode(image.to(dtype)).latent_dist for image in pixels.split(1)]
            mean = torch.cat([p.mean for p in posteriors]).float()
            return Posterior(mean, torch.cat([p.std for p in posteriors]).float())

    def encode_captions(self, captions: Sequence[str]) -> TextEmbeds:
        """The hidden states of the text encoder that guide the UNet, captions cut at 75 tokens.

        A frozen one encodes each caption alone and caches it, so that the numbers do not depend on which captions came
        before, or together.
        """
        if self.parts["text_encoder"].is_trained:
            return TextEmbeds(self._hidden_states(captions))
        with torch.no_grad():
            hidden = torch.cat([self._cached(caption) for caption in captions])
        return TextEmbeds(hidden.to(self.device, non_blocking=True))

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has."""
        return [len(tokens) for tokens in self.tokenizer(list(captions), add_special_tokens=False).input_ids]

    def condition(self, embeds: TextEmbeds, sizes: ImageSizes) -> Conditioning:
        """Only the hidden states; this family does not use sizes."""
        return Conditioning(embeds.hidden)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's prediction."""
        return self.unet(noisy_latents, timesteps, conditioning.hidden).sample

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels, image by image."""
        dtype = next(self.vae.parameters()).dtype
        with torch.autocast(self.device.type, enabled=False):
            images = [self.vae.decode(x.to(dtype)).sample for x in (latents / self.latent_scale).split(1)]
        return torch.cat(images).float().clamp(-1, 1)

    def _cached(self, caption: str) -> Tensor:
        key = caption, torch.is_autocast_enabled(self.device.type)
        return self.cache.get(key, lambda: self._hidden_states([caption]))

    def _hidden_states(self, captions: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids.to(self.device)
        if self.clip_skip < 2:
            return self.text_encoder(tokens).last_hidden_state
        states = self.text_encoder(tokens, output_hidden_states=True).hidden_states
        inner = getattr(self.text_encoder, "text_model", self.text_encoder)  # transformers 5.6 has no inner one
        return inner.final_layer_norm(states[-self.clip_skip])


def load(
    source: ModelSource,
    *,
    trained: Sequence[str],
    device: torch.device,
    frozen_dtype: torch.dtype,
    trained_dtype: torch.dtype = torch.float32,
) -> StableDiffusion:
    """Read a model for training.

    Args:
        source: what to read.
        trained: names of the parts to train.
        device: where to put everything.
        frozen_dtype: in which the other parts compute.
        trained_dtype: in which the trained parts are kept.

    Raises:
        ModelError: a part cannot be read.
    """
    facts = FACTS[source.family]
    parts = {}
    for part in facts.parts:
        # bf16 would round latents more coarsely than fp16 does, whose range is enough for the VAE of SD1 and SD2.
        is_coarse = part.name == "vae" and frozen_dtype is torch.bfloat16
        dtype = torch.float16 if is_coarse else frozen_dtype
        parts[part.name] = load_part(
            source,
            part,
            is_trained=part.name in trained,
            device=device,
            frozen_dtype=dtype,
            trained_dtype=trained_dtype,
        )
    # A third less time to encode on a CPU, no loss on a GPU.
    parts["vae"].module.to(memory_format=torch.channels_last)
    process = Discrete.from_config(source.config("scheduler/scheduler_config.json")).to(device)
    return StableDiffusion(facts, source, parts, process, source.extra())
