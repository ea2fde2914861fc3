"""Stable Diffusion 1.x and 2.x: UNet, VAE and text encoder as one model to train."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from ed2.data.cache import TensorCache
from ed2.models.base import Conditioning, ImageSizes, ModelSource, Posterior, TextEmbeds
from ed2.models.families.clip import ClipEncoder, EmbedsCache
from ed2.models.families.facts import FACTS, VAE, FamilyFacts, PartFacts
from ed2.models.parts import BatchVisits, Part
from ed2.models.process import DiffusionProcess

Adapt = Callable[[str, nn.Module], None]
"""Adds adapters to the network of this name."""
ALIGNMENT = 64
"""Alignment in bytes of every tensor that PyTorch allocates; MKL's matrix products depend on it."""


@dataclass
class StableDiffusion:
    """An SD1 or SD2 model; they differ only in their configurations.

    Attributes:
        cache: embeddings of captions, while all text encoders are frozen.
    """

    facts: FamilyFacts
    source: ModelSource
    parts: Mapping[str, Part]
    process: DiffusionProcess
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    clip_skip: int = 0
    caption_chunks: int = 1
    cache: EmbedsCache = field(default_factory=EmbedsCache)
    visits: BatchVisits = field(default_factory=BatchVisits)

    def __post_init__(self) -> None:
        self.denoiser: Any = self.parts["unet"].module
        vae_config = self.source.config(self.facts.part(VAE).config)
        self.downscale: int = 2 ** (len(vae_config["block_out_channels"]) - 1)
        self.latent_scale: float = vae_config.get("scaling_factor", self.facts.latent_scale)
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
        """Read a model for training.

        Args:
            source: what to read.
            trained: names of the parts to train.
            device: where to put everything.
            frozen_dtype: in which the other parts compute.
            trained_dtype: in which the trained parts are kept.
            adapt: adds adapters to a part, which are trained in place of its weights; nothing else is saved then.

        Raises:
            ModelError: a part cannot be read.
        """
        facts, parts = FACTS[source.family], {}
        for part in facts.parts:
            is_trained = part.name in trained
            dtype = _vae_dtype(facts, frozen_dtype) if part.name == VAE else frozen_dtype
            if is_trained and not adapt:
                dtype = trained_dtype
            parts[part.name] = _load_part(source, part, is_trained=is_trained, device=device, dtype=dtype, adapt=adapt)
        # A third less time to encode on a CPU, no loss on a GPU.
        parts[VAE].module.to(memory_format=torch.channels_last)
        process = DiffusionProcess.from_config(source.config("scheduler/scheduler_config.json")).to(device)
        return cls(facts, source, parts, process, source.extra())

    @property
    def device(self) -> torch.device:
        """The UNet's device."""
        return next(self.denoiser.parameters()).device

    def encode_pixels(self, pixels: Tensor) -> Posterior:
        """The distribution of latents, in the VAE's own precision, image by image, which bounds its memory."""
        vae = self._vae()
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            posteriors = [vae.encode(image.to(vae.dtype)).latent_dist for image in pixels.split(1)]
            mean = torch.cat([p.mean for p in posteriors]).float()
            return Posterior(mean, torch.cat([p.std for p in posteriors]).float())

    def encode_captions(self, captions: Sequence[str]) -> TextEmbeds:
        """What guides the UNet, from all text encoders."""
        if any(encoder.is_trained for encoder in self.encoders):
            return self._encode(captions)
        # Each alone and cached, so that the numbers do not depend on which captions came before, or together.
        with torch.no_grad():
            found = [
                self.cache.get(self.caption_key(caption), partial(self._encode, [caption])) for caption in captions
            ]
        return TextEmbeds.joined(found).to(self.device)

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
        return self.denoiser(noisy_latents, timesteps, conditioning.hidden).sample

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels, in the VAE's own precision, image by image."""
        vae = self._vae()
        with torch.autocast(latents.device.type, enabled=False):
            images = [vae.decode(x.to(vae.dtype)).sample for x in (latents / self.latent_scale).split(1)]
        return torch.cat(images).float().clamp(-1, 1)

    def _vae(self) -> Any:
        """The VAE, with its weights on the device."""
        self.parts[VAE].come_back()
        return self.parts[VAE].module

    def _encode(self, captions: Sequence[str]) -> TextEmbeds:
        [encoder] = self.encoders
        chunks = encoder.chunks(captions, self.caption_chunks)
        self.visits.chunks = chunks.counts
        return TextEmbeds(chunks.by_caption(encoder.last_states(chunks.tokens, self.clip_skip)))


def _vae_dtype(facts: FamilyFacts, frozen_dtype: torch.dtype) -> torch.dtype:
    """The precision of the VAE: never fp16 if that overflows; else rather fp16 than bf16, whose digits are fewer."""
    if facts.vae_overflows_fp16:
        return torch.float32 if frozen_dtype is torch.float16 else frozen_dtype
    return torch.float16 if frozen_dtype is torch.bfloat16 else frozen_dtype


def _load_part(
    source: ModelSource,
    facts: PartFacts,
    *,
    is_trained: bool,
    device: torch.device,
    dtype: torch.dtype,
    adapt: Adapt | None,
) -> Part:
    """Read a part onto `device`; the arguments are those of `StableDiffusion.load`.

    Raises:
        ModelError: it cannot be read.
    """
    # Of other parts the weights as stored are kept too, which half precision may not hold.
    module: Any = source.read(facts.name, dtype if is_trained or adapt else torch.float32)
    align_weights(module)
    if adapt:
        module.requires_grad_(False).to(device, dtype)
        if not is_trained:
            return Part(facts.name, module.eval(), "frozen", facts.saved_prefix)
        adapt(facts.name, module)
        return Part(facts.name, module.to(device).train(), "lora", facts.saved_prefix)
    if is_trained:
        return Part(facts.name, module.requires_grad_(True).to(device, dtype).train(), "full", facts.saved_prefix)
    stored_as = source.dtypes[facts.name]
    stored = {name: tensor.to(stored_as, copy=True) for name, tensor in module.state_dict().items()}
    module = module.requires_grad_(False).to(device, dtype).eval()
    return Part(facts.name, module, "frozen", facts.saved_prefix, stored)


def align_weights(module: nn.Module) -> None:
    """Copy weights that are still in a mapped file into memory allocated by PyTorch.

    safetensors maps a file that needs no conversion, and a tensor starts wherever its header ends. MKL sums products of
    some shapes in another order where an operand is not aligned, so the weights of a base model and the same weights
    read from a checkpoint would train to other bytes.
    Source: Intel oneMKL developer guide, "Obtaining numerically reproducible results", on alignment.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


load = StableDiffusion.load
