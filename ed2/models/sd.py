"""Stable Diffusion 1.x and 2.x: UNet, VAE and text encoder as one model to train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ed2.models.base import ModelSource
from ed2.models.noise import NoiseSchedule
from ed2.models.remembered import Remembered

TRAINABLE = ("unet", "text_encoder")
ALIGNMENT = 64
"""Bytes that every tensor made by PyTorch starts at a multiple of, and that MKL's matrix products depend on."""


@dataclass
class StableDiffusion:
    """The parts of an SD1 or SD2 model, which differ in their configurations only.

    Attributes:
        stored: the tensors of the parts that are not trained, as the base had them, so that a checkpoint holds them
            unchanged whatever precision they are computed in.
        trained: the networks that are trained, by name.
        extra: tensors that only a single file holds, by their names there; an exported one gets them back.
        clip_skip: take the text encoder's output so many layers before its end; 0 and 1 are the end.
        remembered: prompt embeddings, while the text encoder is not trained.
    """

    folder: ModelSource
    unet: Any
    vae: Any
    text_encoder: Any
    trained: Mapping[str, nn.Module]
    stored: Mapping[str, Mapping[str, Tensor]]
    noise_schedule: NoiseSchedule
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    clip_skip: int = 0
    remembered: Remembered = field(default_factory=Remembered)

    def __post_init__(self) -> None:
        self.family = self.folder.family
        self.tokenizer = self.folder.tokenizer()
        config = self.folder.config("vae/config.json")
        self.latent_channels: int = config["latent_channels"]
        self.downscale: int = 2 ** (len(config["block_out_channels"]) - 1)
        self.scaling_factor: float = config.get("scaling_factor", 0.18215)

    @property
    def device(self) -> torch.device:
        """Where the UNet lies."""
        return next(self.unet.parameters()).device

    def encode_pixels(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Latents in fp32: (mean + deviation * noise) * scaling; image by image, which bounds the memory."""
        dtype = next(self.vae.parameters()).dtype
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):  # the VAE has a precision of its own
            posteriors = [self.vae.encode(image.to(dtype)).latent_dist for image in pixels.split(1)]
            mean = torch.cat([p.mean for p in posteriors]).float()
            deviation = torch.cat([p.std for p in posteriors]).float()
            return (mean + deviation * noise) * self.scaling_factor

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """The hidden state of the text encoder that guides the UNet, captions cut at 75 tokens.

        One that is not trained encodes each caption alone and remembers it, so that the numbers do not depend on which
        captions came before, or together.
        """
        if "text_encoder" in self.trained:
            return self._encoded(captions)
        with torch.no_grad():
            embeds = [self._remembered_embeds(caption) for caption in captions]
        return torch.cat(embeds).to(self.device, non_blocking=True)

    def _remembered_embeds(self, caption: str) -> Tensor:
        key = caption, torch.is_autocast_enabled(self.device.type)
        return self.remembered.of(key, lambda: self._encoded([caption]))

    def _encoded(self, captions: Sequence[str]) -> Tensor:
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

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """The UNet's prediction."""
        return self.unet(noisy_latents, timesteps, prompt_embeds).sample

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels (B,3,H,W) in [-1, 1], in fp32, image by image."""
        dtype = next(self.vae.parameters()).dtype
        with torch.autocast(self.device.type, enabled=False):
            images = [self.vae.decode(x.to(dtype)).sample for x in (latents / self.scaling_factor).split(1)]
        return torch.cat(images).float().clamp(-1, 1)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The weights of each part, under the names of its module: the trained ones as they are now."""
        now = {name: dict(module.state_dict()) for name, module in self.trained.items()}
        return {part: now.get(part) or dict(self.stored[part]) for part in ("unet", "vae", "text_encoder")}


def load(
    folder: ModelSource, *, trained: Sequence[str], device: torch.device, frozen_dtype: torch.dtype
) -> StableDiffusion:
    """Read a model for training.

    Args:
        folder: what to read.
        trained: the networks to train, of `TRAINABLE`; they are kept in fp32.
        device: where to put everything.
        frozen_dtype: what the other parts are computed in.

    Raises:
        ModelError: a part cannot be read.
    """
    modules: dict[str, nn.Module] = {}
    stored: dict[str, dict[str, Tensor]] = {}
    for part in ("unet", "vae", "text_encoder"):
        module = folder.read(part)
        align_weights(module)
        if part in trained:
            modules[part] = module.requires_grad_(True).to(device).train()
            continue
        stored[part] = {name: tensor.to(folder.dtypes[part], copy=True) for name, tensor in module.state_dict().items()}
        # bf16 would round latents more coarsely than fp16 does, whose range suffices for the VAE of SD1 and SD2.
        is_coarse_vae = part == "vae" and frozen_dtype is torch.bfloat16
        modules[part] = module.requires_grad_(False).to(device, torch.float16 if is_coarse_vae else frozen_dtype).eval()
    # A third less time to encode on a CPU, no loss on a card.
    modules["vae"].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return StableDiffusion(
        folder=folder,
        unet=modules["unet"],
        vae=modules["vae"],
        text_encoder=modules["text_encoder"],
        trained={name: modules[name] for name in TRAINABLE if name in trained},
        stored=stored,
        noise_schedule=NoiseSchedule.from_config(folder.config("scheduler/scheduler_config.json")).to(device),
        extra=folder.extra(),
    )


def align_weights(module: nn.Module) -> None:
    """Move weights that still lie in a mapped file into memory of PyTorch.

    safetensors maps a file that needs no conversion, and a tensor starts wherever its header ends. MKL sums products of
    some shapes in another order where an operand is not aligned, so the weights of a base model and the same weights
    read from a checkpoint would train to other bytes.
    Source: Intel oneMKL developer guide, "Obtaining numerically reproducible results", on alignment.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()
