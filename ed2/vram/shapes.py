"""The shape of a model: the number of weights in its parts, and the traced figures that apply to it.

The figures are closed forms of the memory of a pass, made by scripts/trace_memory.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

from ed2.models.families.facts import FACTS

FILE = Path(__file__).with_name("traced.json")
SAME = 0.05
"""How much files of one model may differ in size: some contain unused layers or a schedule."""


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
