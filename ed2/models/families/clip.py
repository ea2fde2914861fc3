"""CLIP text encoders: from captions to hidden states, a cache of what frozen ones gave, and freezing some layers."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from ed2.data.cache import TensorCache
from ed2.data.variants import cache_key
from ed2.models.base import TextEmbeds, joined_embeddings, on_device
from ed2.models.parts import Part

MAX_CACHE_BYTES = 256 << 20
"""About 2,000 captions of SD 1.x in half precision, or 850 of SDXL."""


@dataclass(frozen=True)
class Chunks:
    """Captions as a text encoder reads them: cut into chunks, each with its own start and end tokens.

    Attributes:
        tokens: of all chunks, (N, 77), caption by caption.
        counts: how many chunks each caption has.
    """

    tokens: Tensor
    counts: list[int]

    def by_caption(self, hidden: Tensor) -> Tensor:
        """Hidden states of chunks (N, 77, D) with those of each caption in a row: (B, 77 * chunks, D)."""
        return joined_embeddings([chunks.flatten(0, 1)[None] for chunks in hidden.split(self.counts)])

    def first(self, pooled: Tensor) -> Tensor:
        """Of vectors of chunks (N, P) that of each caption's first chunk, (B, P), as web UIs use them."""
        return torch.stack([chunks[0] for chunks in pooled.split(self.counts)])


class ClipEncoder:
    """A CLIP text encoder with its tokenizer.

    Attributes:
        length: tokens of a chunk, with the start and end tokens.
    """

    def __init__(self, part: Part, tokenizer: CLIPTokenizer) -> None:
        self.part = part
        self.module: Any = part.module
        self.tokenizer = tokenizer
        self.is_trained = part.is_trained
        self.length: int = tokenizer.model_max_length

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.module.parameters()).device

    def count(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has, without start and end tokens."""
        return [len(tokens) for tokens in self.tokenizer(list(captions), add_special_tokens=False).input_ids]

    def chunks(self, captions: Sequence[str], max_chunks: int) -> Chunks:
        """The captions in as many chunks as each one needs; what is beyond `max_chunks` is left out."""
        found = self.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_overflowing_tokens=True,
            return_tensors="pt",
        )
        counts, kept = [0] * len(captions), []
        for owner, tokens in zip(found.overflow_to_sample_mapping.tolist(), found.input_ids, strict=True):
            if counts[owner] < max_chunks:
                counts[owner] += 1
                kept.append(tokens)  # the tokenizer gives them caption by caption
        self.part.come_back()
        return Chunks(on_device(torch.stack(kept), self.device), counts)

    def last_states(self, tokens: Tensor, clip_skip: int) -> Tensor:
        """Hidden states (N, 77, D) through the final norm, `clip_skip` layers before the end; 0 and 1 are the end."""
        if clip_skip < 2:
            return self.module(tokens).last_hidden_state
        states = self.all_states(tokens).hidden_states
        inner = getattr(self.module, "text_model", self.module)  # transformers 5.6 has no inner one
        return inner.final_layer_norm(states[-clip_skip])

    def all_states(self, tokens: Tensor) -> Any:
        """The encoder's whole output for tokens (N, 77), hidden states of every layer included."""
        return self.module(tokens, output_hidden_states=True)


@dataclass
class EmbedsCache:
    """Embeddings by key, on the CPU; the least recently used ones are dropped to make room.

    Attributes:
        store: rows on the disk, by `cache_key` of the key; None for none.
    """

    max_bytes: int = MAX_CACHE_BYTES
    store: TensorCache | None = None
    _embeds: OrderedDict[tuple[str | int, ...], TextEmbeds] = field(default_factory=OrderedDict)
    num_bytes: int = 0

    def __len__(self) -> int:
        return len(self._embeds)

    def get(self, key: tuple[str | int, ...], compute: Callable[[], TextEmbeds]) -> TextEmbeds:
        """The embeddings of `key`; computed, and copied to the CPU, if they are not cached."""
        if key in self._embeds:
            self._embeds.move_to_end(key)
            return self._embeds[key]
        embeds = self._read(key, compute) if self.store else compute().to(torch.device("cpu"))
        self._embeds[key] = embeds
        self.num_bytes += embeds.nbytes
        while self.num_bytes > self.max_bytes and len(self._embeds) > 1:
            _, dropped = self._embeds.popitem(last=False)
            self.num_bytes -= dropped.nbytes
        return embeds

    def _read(self, key: tuple[str | int, ...], compute: Callable[[], TextEmbeds]) -> TextEmbeds:
        """The embeddings on the disk; computed if they are not there, and written again if they were."""
        assert self.store
        row_key = cache_key(*key)
        row = self.store.read(row_key)
        if row is not None:
            return TextEmbeds.of_row(row)
        embeds = compute().to(torch.device("cpu"))
        if self.store.is_lost(row_key):
            self.store.mend(row_key, embeds.as_row())
            self.store.close()
        return embeds


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
