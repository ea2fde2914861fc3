"""Reads a single file that was just written as a program that opens it does, and compares it with what was saved."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ed2.models.families.facts import FACTS, POSITION_IDS, FamilyFacts
from ed2.models.families.kinds import described, kind_of
from ed2.models.files.header import Header
from ed2.models.files.layout import diffusers_tensors, vae_tensors
from ed2.models.files.prediction import said_prediction
from ed2.models.files.tensor_file import Content, Pair, Tensors, difference


@dataclass(frozen=True)
class SavedModel:
    """A model as it goes into a single file.

    Attributes:
        prediction_type: in diffusers' words.
        parts: its tensors by part, and by their names in a diffusers folder.
        content: every tensor of the file, by its name there.
        dtype: of the floating-point ones in the file; None leaves them as they are.
    """

    family: str
    prediction_type: str
    parts: Mapping[str, Tensors]
    content: Tensors
    dtype: torch.dtype | None

    def fault_in(self, written: Content) -> str | None:
        """What is read from a file otherwise than it was saved; None if all of it is the same, and finite.

        Tensor by tensor: the bytes of a file are read when they are compared.
        """
        fault = self._other_model(written)
        return fault if fault else difference(self._pairs(written.tensors), self.dtype)

    def _other_model(self, written: Content) -> str:
        shapes = {name: tuple(tensor.shape) for name, tensor in written.tensors.items()}
        kind = kind_of(shapes)
        if kind != self.family:
            return f"It opens as {described(kind)}, not as {described(self.family)}."
        said = said_prediction(Header(shapes, {}, dict(written.metadata), {})) or FACTS[kind].prediction_type
        if said != self.prediction_type:
            return f"It opens as a model that predicts {said}, not {self.prediction_type}."
        return ""

    def _pairs(self, written: Tensors) -> Iterator[Pair]:
        """The tensors of every part by the names of a folder, then those that only a file has."""
        facts = FACTS[self.family]
        read = diffusers_tensors(written, num_text_layers=_num_text_layers(facts, self.parts))
        for part in facts.parts:
            found = read.parts[part.name]
            given = as_read(facts, part.name, self.parts[part.name])
            for name in sorted(found.keys() | given.keys()):
                yield f"{part.name}/{name}", _in_shape_of(given.get(name), found.get(name)), given.get(name)
        for name, tensor in read.left_over.items():
            yield name, tensor, self.content.get(name)
        for name in sorted(self.content.keys() - written.keys()):
            yield name, None, self.content[name]


def as_read(facts: FamilyFacts, part: str, tensors: Tensors) -> dict[str, Tensor]:
    """The tensors of a part's folder by the names, and in the shapes, in which those of a single file are read."""
    encoders = {encoder.name: encoder for encoder in facts.text_encoders}
    if part == "vae":
        return vae_tensors(tensors)
    if part not in encoders:
        return dict(tensors)
    prefix = encoders[part].saved_prefix
    named = {name if name.startswith((prefix, "text_projection.")) else prefix + name: t for name, t in tensors.items()}
    named.pop(POSITION_IDS, None)
    return named


def _in_shape_of(given: Tensor | None, found: Tensor | None) -> Tensor | None:
    """A matrix of a file as a folder holds it: there it may be a 1x1 convolution, or the other way round."""
    if given is None or found is None or {given.ndim, found.ndim} != {2, 4} or given.numel() != found.numel():
        return found
    return found.reshape(given.shape)


def _num_text_layers(facts: FamilyFacts, parts: Mapping[str, Tensors]) -> dict[str, int]:
    """How many layers each text encoder has, by its name."""
    return {
        encoder.name: len({name.split("layers.")[1].split(".")[0] for name in parts[encoder.name] if "layers." in name})
        for encoder in facts.text_encoders
    }
