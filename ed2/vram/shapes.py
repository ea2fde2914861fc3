"""The shape of a model: how many numbers its parts have, and which traced figures hold for it."""

from collections.abc import Mapping
from dataclasses import dataclass

from ed2.models.families.facts import FACTS
from ed2.vram.traced import Traced, traced

SAME = 0.05
"""Share by which files of one model differ: some hold layers that are not used, or a schedule."""


@dataclass(frozen=True)
class ModelShape:
    """A model as far as memory is concerned.

    Attributes:
        family: a name in `FACTS`.
        traced: the figures that hold for it.
        parameters: weights by part, where they are others than those of the traced model.
    """

    family: str
    traced: Traced
    parameters: Mapping[str, int] | None = None

    def numbers(self, part: str) -> int:
        """Weights of a part."""
        return self.parameters[part] if self.parameters else self.traced.parameters[part]["all"]

    def scale(self, part: str) -> float:
        """Weights of a part for each of the traced model."""
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
