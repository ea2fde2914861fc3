"""Code shared by the families: reading the parts of a model, and its VAE."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ed2.models.base import ModelSource, Part, Posterior
from ed2.models.families.facts import FACTS, VAE, FamilyFacts, PartFacts

Adapt = Callable[[str, nn.Module], None]
"""Adds adapters to the network of this name."""
ALIGNMENT = 64
"""Alignment in bytes of every tensor that PyTorch allocates; MKL's matrix products depend on it."""


def load_parts(
    source: ModelSource,
    *,
    trained: Sequence[str],
    device: torch.device,
    frozen_dtype: torch.dtype,
    trained_dtype: torch.dtype = torch.float32,
    adapt: Adapt | None = None,
) -> dict[str, Part]:
    """Read the parts of a model for training, by name.

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
    facts = FACTS[source.family]
    parts = {}
    for part in facts.parts:
        is_trained = part.name in trained
        dtype = _vae_dtype(facts, frozen_dtype) if part.name == VAE else frozen_dtype
        if is_trained and not adapt:
            dtype = trained_dtype
        parts[part.name] = load_part(source, part, is_trained=is_trained, device=device, dtype=dtype, adapt=adapt)
    # A third less time to encode on a CPU, no loss on a GPU.
    parts[VAE].module.to(memory_format=torch.channels_last)
    return parts


def _vae_dtype(facts: FamilyFacts, frozen_dtype: torch.dtype) -> torch.dtype:
    """The precision of the VAE: never fp16 if that overflows; else rather fp16 than bf16, whose digits are fewer."""
    if facts.vae_overflows_fp16:
        return torch.float32 if frozen_dtype is torch.float16 else frozen_dtype
    return torch.float16 if frozen_dtype is torch.bfloat16 else frozen_dtype


def load_part(
    source: ModelSource,
    facts: PartFacts,
    *,
    is_trained: bool,
    device: torch.device,
    dtype: torch.dtype,
    adapt: Adapt | None,
) -> Part:
    """Read a part onto `device`; the arguments are those of `load_parts`.

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


class Autoencoder:
    """The VAE of a model; it works image by image, which bounds its memory.

    Attributes:
        downscale: pixels per latent along one side.
        latent_scale: factor that brings latents to about unit variance.
    """

    def __init__(self, part: Part, source: ModelSource) -> None:
        facts = FACTS[source.family]
        config = source.config(facts.part(VAE).config)
        self.part = part
        self.module: Any = part.module
        self.downscale: int = 2 ** (len(config["block_out_channels"]) - 1)
        self.latent_scale: float = config.get("scaling_factor", facts.latent_scale)

    def encode(self, pixels: Tensor) -> Posterior:
        """The distribution of latents, in fp32, for pixels (B,3,H,W) in [-1, 1]; without gradients."""
        self.part.come_back()
        dtype = next(self.module.parameters()).dtype
        with torch.no_grad(), self._own_precision(pixels):
            posteriors = [self.module.encode(image.to(dtype)).latent_dist for image in pixels.split(1)]
            mean = torch.cat([p.mean for p in posteriors]).float()
            return Posterior(mean, torch.cat([p.std for p in posteriors]).float())

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B,3,H,W) in [-1, 1], fp32, of scaled latents."""
        self.part.come_back()
        dtype = next(self.module.parameters()).dtype
        with self._own_precision(latents):
            images = [self.module.decode(x.to(dtype)).sample for x in (latents / self.latent_scale).split(1)]
        return torch.cat(images).float().clamp(-1, 1)

    @staticmethod
    def _own_precision(images: Tensor) -> AbstractContextManager[object]:
        return torch.autocast(images.device.type, enabled=False)
