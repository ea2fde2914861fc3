"""What optimizers keep on the card, and take for a moment while they step."""

from collections.abc import Mapping
from dataclasses import dataclass

BLOCK = 256
"""Numbers that share a scale in the state of an 8-bit optimizer (bitsandbytes 0.50)."""
BYTES_PER_NUMBER = {"adamw": 8, "lion": 4, "prodigy": 16, "schedulefree": 8}
EIGHT_BIT = {"adamw8bit": 2, "lion8bit": 1}
"""Averages of one byte a number."""
TENSORS_AT_ONCE = {"adafactor": 3, "prodigy": 2}
"""Copies of the largest tensor while it is its turn."""
UNKNOWN = 8
"""Bytes for each number of an optimizer that somebody has added: as much as AdamW."""


@dataclass(frozen=True)
class Trained:
    """What is trained of a network.

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
    def share_of(cls, counts: Mapping[str, int], numbers: float) -> "Trained":
        """`numbers` of a part's weights; the rest of its counts in proportion."""
        share = numbers / counts["all"]
        return cls(numbers, counts["small"] * share, min(counts["largest"], numbers), counts["factored"] * share)


def state_bytes(optimizer: str, trained: Trained) -> float:
    """What an optimizer keeps from step to step."""
    if optimizer in EIGHT_BIT:
        averages = EIGHT_BIT[optimizer]
        return averages * ((trained.numbers - trained.small) * (1 + 4 / BLOCK) + trained.small * 4)
    if optimizer == "adafactor":
        return 4 * trained.factored
    return BYTES_PER_NUMBER.get(optimizer, UNKNOWN) * trained.numbers


def step_bytes(optimizer: str, trained: Trained) -> float:
    """What an optimizer takes while it steps, beside its state. Schedule-free handles all tensors together."""
    if optimizer == "schedulefree":
        return 4 * trained.numbers
    return TENSORS_AT_ONCE.get(optimizer, 0) * 4 * trained.largest
