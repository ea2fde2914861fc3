"""Code shared by the families: reading a part, and caching and freezing CLIP text encoders."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ed2.models.base import ModelSource, Part
from ed2.models.families.facts import PartFacts

ALIGNMENT = 64
"""Alignment in bytes of every tensor that PyTorch allocates; MKL's matrix products depend on it."""
MAX_CACHE_BYTES = 256 << 20
"""About 2,000 captions of SD 1.x in half precision."""


def load_part(
    source: ModelSource,
    facts: PartFacts,
    *,
    is_trained: bool,
    device: torch.device,
    frozen_dtype: torch.dtype,
    trained_dtype: torch.dtype = torch.float32,
) -> Part:
    """Read a part onto `device`: a trained one in `trained_dtype`, a frozen one in `frozen_dtype`.

    Raises:
        ModelError: it cannot be read.
    """
    module: Any = source.read(facts.name)
    align_weights(module)
    if is_trained:
        module = module.requires_grad_(True).to(device, trained_dtype).train()
        return Part(facts.name, module, "full", facts.saved_prefix)
    stored_as = source.dtypes[facts.name]
    stored = {name: tensor.to(stored_as, copy=True) for name, tensor in module.state_dict().items()}
    module = module.requires_grad_(False).to(device, frozen_dtype).eval()
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


@dataclass
class EmbedsCache:
    """Embeddings by key, on the CPU; the least recently used ones are dropped to make room."""

    max_bytes: int = MAX_CACHE_BYTES
    _tensors: OrderedDict[Hashable, Tensor] = field(default_factory=OrderedDict)
    num_bytes: int = 0

    def __len__(self) -> int:
        return len(self._tensors)

    def get(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of `key`; computed, and copied to the CPU, if it is not cached."""
        if key in self._tensors:
            self._tensors.move_to_end(key)
            return self._tensors[key]
        tensor = compute().to("cpu")
        self._tensors[key] = tensor
        self.num_bytes += tensor.nbytes
        while self.num_bytes > self.max_bytes and len(self._tensors) > 1:
            _, dropped = self._tensors.popitem(last=False)
            self.num_bytes -= dropped.nbytes
        return tensor


def freeze_text_encoder(
    text_encoder: nn.Module, *, last_layers: int | None, embeddings: bool, final_layer_norm: bool
) -> None:
    """Freeze parts of a trained CLIP text encoder: they get no gradient, no optimizer state, and keep their bytes.

    Args:
        text_encoder: of transformers, with or without an inner `text_model`.
        last_layers: train only this many layers, counted from the end, and no embeddings; None trains all layers.
        embeddings: freeze those of tokens and positions.
        final_layer_norm: freeze it.
    """
    inner: Any = getattr(text_encoder, "text_model", text_encoder)
    frozen: list[nn.Module] = []
    if last_layers is not None:
        frozen += inner.encoder.layers[: max(0, len(inner.encoder.layers) - last_layers)]
    if embeddings or last_layers is not None:
        frozen.append(inner.embeddings)
    if final_layer_norm:
        frozen.append(inner.final_layer_norm)
    for module in frozen:
        module.requires_grad_(False)
