"""The shape of a model: the number of weights in its parts, what optimizers keep of them, and its traced figures.

The figures are closed forms of the memory of a pass, made by scripts/trace_memory.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

from ed2.models.families.facts import FACTS
from ed2.settings.schema import LoraSettings

FILE = Path(__file__).with_name("traced.json")
SAME = 0.05
"""How much files of one model may differ in size: some contain unused layers or a schedule."""

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
class TracedRow:
    """An operation that can be the peak of its phase: bytes in use after it, besides the weights.

    Attributes:
        phase: forward or backward.
        casts: weights cast by autocast.
        unet_gradients: of the UNet, as far as they exist at this moment.
        text_gradients: of all text encoders.
        activations: c, s0, s1, s2 of `c + b (s0 + s1 A + s2 A^2)` for b images of A latents.
        workspace: what a GPU's convolution uses besides, in the same form.
    """

    phase: str
    casts: int
    unet_gradients: int
    text_gradients: int
    activations: Sequence[float]
    workspace: Sequence[float]

    def bytes_at(self, batch: int, cells: int) -> tuple[float, float]:
        """Activations and workspace for `batch` images of `cells` latents each."""
        terms = (1, batch, batch * cells, batch * cells * cells)
        return _sum(self.activations, terms), _sum(self.workspace, terms)


class AdaptedLayers(NamedTuple):
    """Layers of a network that can have adapters, all of one shape.

    Attributes:
        outputs: rows of the weight.
        inputs: columns of the weight.
        kernel: side of a convolution's kernel; 0 for a matrix.
        copies: how many such layers there are.
    """

    outputs: int
    inputs: int
    kernel: int
    copies: int


def _sum(form: Sequence[float], terms: Sequence[float]) -> float:
    return sum(factor * term for factor, term in zip(form, terms, strict=True))


@dataclass(frozen=True)
class Traced:
    """All traced figures of a model.

    Attributes:
        downscale: side of a latent in pixels.
        parameters: counts by part: all, small, largest, factored; of text encoders also layers, layer, embeddings,
            final_norm.
        adapters: the layers that a LoRA changes, by network and value of `lora_layers`.
        training: rows by the name of the variant.
        denoising: rows of the UNet alone, without gradients, by precision.
        encoding: rows of the VAE, by precision.
        decoding: rows of the VAE decoding, by precision.
    """

    downscale: int
    parameters: Mapping[str, Mapping[str, int]]
    adapters: Mapping[str, Mapping[str, Sequence[AdaptedLayers]]]
    training: Mapping[str, tuple[TracedRow, ...]]
    denoising: Mapping[str, tuple[TracedRow, ...]]
    encoding: Mapping[str, tuple[TracedRow, ...]]
    decoding: Mapping[str, tuple[TracedRow, ...]]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Traced":
        """Read what the script wrote about a model."""
        passes = ("training", "denoising", "encoding", "decoding")
        rows: dict[str, dict[str, tuple[TracedRow, ...]]] = {name: {} for name in passes}
        for name in passes:
            for key, found in content[name].items():
                rows[name][key] = tuple(starmap(TracedRow, found))
        adapters: dict[str, dict[str, list[AdaptedLayers]]] = {}
        for part, layers in content["adapters"].items():
            adapters[part] = {name: list(starmap(AdaptedLayers, found)) for name, found in layers.items()}
        return cls(content["downscale"], content["parameters"], adapters, **rows)


@cache
def traced(name: str) -> Traced:
    """The shipped figures of that name: one of `FamilyFacts.traces`."""
    return Traced.of(_content()["families"][name])


@cache
def _content() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class ModelShape:
    """The properties of a model that determine its memory.

    Attributes:
        family: a name in `FACTS`.
        traced: the figures that apply to it.
        parameters: weights by part, if they differ from the traced model.
    """

    family: str
    traced: Traced
    parameters: Mapping[str, int] | None = None

    def numbers(self, part: str) -> int:
        """Weights of a part."""
        return self.parameters[part] if self.parameters else self.traced.parameters[part]["all"]

    def scale(self, part: str) -> float:
        """Weights of a part, relative to the traced model."""
        return self.numbers(part) / self.traced.parameters[part]["all"]


def shape_of(family: str, parameters: Mapping[str, int] | None = None) -> ModelShape:
    """The shape of a model of `family`.

    Args:
        family: a name in `FACTS`.
        parameters: weights by part, by which small models are known; None is the family's usual model.
    """
    traces = FACTS[family].traces
    for name in traces if parameters else traces[:1]:
        known = traced(name)
        if not parameters or all(_is_same(count, known.parameters[part]["all"]) for part, count in parameters.items()):
            return ModelShape(family, known)
    return ModelShape(family, traced(traces[0]), parameters)


def _is_same(count: int, known: int) -> bool:
    return abs(count - known) <= SAME * known


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
