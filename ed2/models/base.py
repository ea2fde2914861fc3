"""What the trainer knows about a model: the protocol of a family, and the data that flows through it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from ed2.data.cache import TensorCache
from ed2.models.families.facts import FamilyFacts
from ed2.models.parts import BatchVisits, Part

if TYPE_CHECKING:
    from ed2.models.process import DiffusionProcess  # which loads diffusers


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`. A copy to a GPU is only queued, and nothing waits for it; one to the CPU is complete.

    `non_blocking` to the CPU would give memory that the GPU has not written yet, and from memory that is not pinned the
    copy would wait for all that the GPU computes. Source: PyTorch tutorials, "pin_memory and non_blocking".
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Posterior:
    """The distribution of latents that an encoder predicts from pixels; (B,C,h,w) each, fp32, not scaled."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Latents, from standard normal noise of their shape."""
        return self.mean + self.std * noise


@dataclass(frozen=True)
class TextEmbeds:
    """The output of text encoders: hidden states (B,L,D), and in some families a pooled vector (B,P).

    L is 77 tokens times the chunks of the longest caption, or a multiple of it; see `joined_embeddings`.
    """

    hidden: Tensor
    pooled: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence["TextEmbeds"]) -> "TextEmbeds":
        """Those of several captions as one batch."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return cls(joined_embeddings([part.hidden for part in parts]), torch.cat(pooled) if pooled else None)

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return sum(tensor.nbytes for tensor in (self.hidden, self.pooled) if tensor is not None)

    def to(self, device: torch.device) -> "TextEmbeds":
        """The same on `device`."""
        hidden = on_device(self.hidden, device)
        if self.pooled is None:
            return TextEmbeds(hidden)
        return TextEmbeds(hidden, on_device(self.pooled, device))

    def as_row(self) -> dict[str, Tensor]:
        """Those of a single caption, as a row of a cache."""
        found = {"hidden": self.hidden, "pooled": self.pooled}
        return {name: tensor[0].to("cpu") for name, tensor in found.items() if tensor is not None}

    @classmethod
    def of_row(cls, row: Mapping[str, Tensor]) -> "TextEmbeds":
        """The inverse of `as_row`."""
        return cls(**{name: tensor[None] for name, tensor in row.items()})


def joined_embeddings(parts: Sequence[Tensor]) -> Tensor:
    """Embeddings (b,l,D) of several lengths as one batch (B,L,D), L being their least common multiple.

    Shorter ones are repeated, which attention does not notice: every weight is divided by the number of copies. So a
    caption means the same whatever else is in its batch. Source: ComfyUI, comfy/conds.py, CONDCrossAttn.
    """
    length = math.lcm(*(part.shape[1] for part in parts))
    return torch.cat([part.repeat(1, length // part.shape[1], 1) for part in parts])


@dataclass(frozen=True)
class ImageSizes:
    """Sizes that a family may condition on, in pixels, (B,2) each as height and width; the crop as top and left."""

    original: Tensor
    crop: Tensor
    target: Tensor

    @classmethod
    def uncropped(cls, size: tuple[int, int], count: int) -> "ImageSizes":
        """Of `count` whole images of `size` (width, height)."""
        target = torch.tensor([[size[1], size[0]]] * count)
        return cls(target, torch.zeros_like(target), target)


@dataclass(frozen=True)
class Conditioning:
    """What a prediction is conditioned on: embeddings (B,L,D), and a family's additions by name, each (B,...)."""

    hidden: Tensor
    added: Mapping[str, Tensor] = field(default_factory=dict)

    def joined(self, other: "Conditioning") -> "Conditioning":
        """This batch followed by another one."""
        added = {name: torch.cat([tensor, other.added[name]]) for name, tensor in self.added.items()}
        return Conditioning(joined_embeddings([self.hidden, other.hidden]), added)


class ModelSource(Protocol):
    """A base model on the disk: a diffusers folder or a single file."""

    @property
    def path(self) -> Path:
        """Its file or folder."""

    @property
    def family(self) -> str:
        """Name of the family."""

    @property
    def small_files(self) -> Mapping[str, bytes]:
        """Every file of a diffusers folder except the weights, by its path there."""

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """How each part's weights are stored."""

    def config(self, name: str) -> dict[str, Any]:
        """The content of one of the small JSON files."""

    def read(self, part: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Read one part; in half precision it takes half the memory."""

    def tokenizer(self, name: str) -> CLIPTokenizer:
        """One of its tokenizers, by the name of its folder."""

    def extra(self) -> dict[str, Tensor]:
        """Tensors that have no place in a diffusers folder, by their names in a single file."""


class DiffusionModel(Protocol):
    """A latent diffusion model as all other modules see it.

    No base class is needed; a family is a class with these members.

    Attributes:
        facts: of its family.
        source: the files it was read from.
        parts: its networks by name.
        process: how noise is added.
        denoiser: the network that predicts; gradients of text encoders flow through it even if it is frozen.
        extra: tensors that only a single file contains, by their names there; exported again.
        device: where it computes.
        downscale: pixels per latent along one side.
        latent_scale: factor that brings latents to about unit variance.
        size_multiple: both sides of an image must be a multiple of this, in pixels.
        clip_skip: take the text encoders' output this many layers before their end, as web UIs count; 0 is what the
            family uses.
        caption_chunks: of 75 tokens; what is beyond that many is cut off.
        visits: those of the batch that is being trained.
    """

    facts: FamilyFacts
    source: ModelSource
    parts: Mapping[str, Part]
    process: "DiffusionProcess"
    extra: Mapping[str, Tensor]
    downscale: int
    latent_scale: float
    size_multiple: int
    denoiser: Any
    clip_skip: int
    caption_chunks: int
    visits: BatchVisits

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def encode_pixels(self, pixels: Tensor) -> Posterior:
        """The distribution of latents for pixels (B,3,H,W) in [-1, 1]; without gradients."""

    def encode_captions(self, captions: Sequence[str]) -> TextEmbeds:
        """Embeddings of captions, with gradients only if a text encoder is trained."""

    def caption_key(self, caption: str) -> tuple[str | int, ...]:
        """What the embeddings of a caption depend on now, besides the weights of frozen text encoders."""

    def use_text_cache(self, store: TensorCache) -> None:
        """Take embeddings from `store` where it has them, in rows with the keys `cache_key(*caption_key(caption))`."""

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has, without the start and end tokens."""

    def condition(self, embeds: TextEmbeds, sizes: ImageSizes) -> Conditioning:
        """The conditioning for images with these captions and sizes."""

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's prediction, in the shape of `noisy_latents` (B,C,h,w); timesteps (B,)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B,3,H,W) in [-1, 1], fp32, of scaled latents."""


def saved_parts(model: DiffusionModel) -> dict[str, Part]:
    """The parts that a checkpoint holds, by name: all, or of a LoRA those that have adapters."""
    adapted = {name: part for name, part in model.parts.items() if part.mode == "lora"}
    return adapted or dict(model.parts)


def trained_parts(model: DiffusionModel) -> dict[str, Part]:
    """The parts that training changes, by name."""
    return {name: part for name, part in model.parts.items() if part.is_trained}


def trained_parameters(model: DiffusionModel) -> list[nn.Parameter]:
    """The parameters that training changes, of one part after the other."""
    parameters: list[nn.Parameter] = []
    for part in trained_parts(model).values():
        parameters += part.parameters().values()
    return parameters


@contextmanager
def evaluating(model: DiffusionModel) -> Iterator[None]:
    """Put all networks of a model into evaluation mode, and restore each module's mode afterwards."""
    modes: list[tuple[nn.Module, bool]] = []
    for part in model.parts.values():
        modes += [(module, module.training) for module in part.module.modules()]
    try:
        for part in model.parts.values():
            part.module.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
