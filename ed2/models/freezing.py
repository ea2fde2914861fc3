"""Which parts of a text encoder stay as they are."""

from typing import Any

from torch import nn


def freeze_text_encoder(
    text_encoder: nn.Module, *, last_layers: int | None, embeddings: bool, final_layer_norm: bool
) -> None:
    """Freeze parts of a trained CLIP text encoder: they get no gradient, no optimizer state, and keep their bytes.

    Args:
        text_encoder: of transformers, with or without an inner `text_model`.
        last_layers: train only so many layers, counted from the end, and no embeddings; None trains all layers.
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
