"""The trained weights of a network, counted, and what optimizers keep of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ed2.settings.schema import LoraSettings
from ed2.vram.shapes import AdaptedLayers, ModelShape

SMALL = 4096
"""Tensors of fewer numbers than this keep a state in fp32 under 8-bit optimizers."""
BLOCK = 256
"""Values that share a scale in the state of an 8-bit optimizer (bitsandbytes 0.50)."""
STATE_BYTES = {"adamw": 8, "lion": 4, "prodigy": 16, "schedulefree": 8}
"""Bytes of optimizer state per trained weight."""
EIGHT_BIT_AVERAGES = {"adamw8bit": 2, "lion8bit": 1}
"""Running averages of one byte per weight."""
TENSORS_AT_ONCE = {"adafactor": 3, "prodigy": 2}
"""Copies of the largest tensor during an update."""
UNKNOWN_STATE_BYTES = 8
"""Bytes per weight assumed for an optimizer that is not listed, as for AdamW."""


@dataclass(frozen=True)
class TrainedWeights:
    """The trained weights of a network.

    Attributes:
        numbers: how many.
        small: those in tensors of under 4096, whose state 8-bit optimizers keep in fp32.
        largest: those in the largest tensor.
        factored: numbers in Adafactor's averages.
    """

    numbers: float
    small: float
    largest: float
    factored: float

    @classmethod
    def share_of(cls, counts: Mapping[str, int], numbers: float) -> "TrainedWeights":
        """`numbers` of a part's weights; its other counts scale in proportion."""
        share = numbers / counts["all"]
        return cls(numbers, counts["small"] * share, min(counts["largest"], numbers), counts["factored"] * share)

    def times(self, share: float) -> "TrainedWeights":
        """A share of these tensors."""
        return TrainedWeights(self.numbers * share, self.small * share, self.largest, self.factored * share)


def state_bytes(optimizer: str, trained: TrainedWeights) -> float:
    """Bytes that an optimizer keeps between steps."""
    if optimizer in EIGHT_BIT_AVERAGES:
        averages = EIGHT_BIT_AVERAGES[optimizer]
        return averages * ((trained.numbers - trained.small) * (1 + 4 / BLOCK) + trained.small * 4)
    if optimizer == "adafactor":
        return 4 * trained.factored
    return STATE_BYTES.get(optimizer, UNKNOWN_STATE_BYTES) * trained.numbers


def update_bytes(optimizer: str, trained: TrainedWeights) -> float:
    """Bytes that an optimizer allocates in an update besides its state; schedule-free handles all tensors together."""
    if optimizer == "schedulefree":
        return 4 * trained.numbers
    return TENSORS_AT_ONCE.get(optimizer, 0) * 4 * trained.largest


def adapter_weights(shape: ModelShape, name: str, settings: LoraSettings, share: float = 1.0) -> TrainedWeights:
    """The numbers in a LoRA's adapters of a network, or of a share of its layers.

    Exact for a traced model; another one's are taken to be in proportion to its weights.
    """
    numbers = small = largest = factored = 0
    for alike in shape.traced.adapters[name][settings.lora_layers]:
        for tensor in _tensors(alike, settings):
            size = math.prod(tensor)
            numbers += alike.copies * size
            if size < SMALL:
                small += alike.copies * size
            largest = max(largest, size)
            factored += alike.copies * _factored(tensor)
    return TrainedWeights(numbers, small, largest, factored).times(share * shape.scale(name))


def _tensors(layers: AdaptedLayers, settings: LoraSettings) -> list[tuple[int, ...]]:
    """The shapes of a layer's adapters: down, up, and with DoRA the magnitudes."""
    rank, sides = settings.lora_rank, (layers.kernel,) * 2 if layers.kernel else ()
    ones = (1,) * len(sides)
    matrices: list[tuple[int, ...]] = [(rank, layers.inputs, *sides), (layers.outputs, rank, *ones)]
    if settings.lora_dora:
        matrices.append((1, layers.outputs, *ones) if sides else (layers.outputs,))
    return matrices


def _factored(shape: tuple[int, ...]) -> int:
    """Numbers of transformers' Adafactor for a tensor: a row and a column of each matrix of its last two sides."""
    size = math.prod(shape)
    return size if len(shape) < 2 else size // shape[-1] + size // shape[-2]
