"""Taking a LoRA out of two models, and adding one to a model, as files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ed2.app.convert import convert, not_written, parts_of, placed, require_free
from ed2.disk import rename_if_free
from ed2.errors import ModelError, Problem, printable
from ed2.models.base import ModelSource
from ed2.models.families.facts import FACTS
from ed2.models.files.base_model import locate
from ed2.models.files.description import Description, ModelSpec
from ed2.models.files.folder_problems import SCHEDULER_CONFIG
from ed2.models.files.source import open_base
from ed2.models.files.tensor_file import mapped_tensors
from ed2.models.lora.arithmetic import KeptChange, Merged, RankOptions, Report, Weights, extract, merge
from ed2.models.lora.file import read_lora, write_lora
from ed2.models.lora.names import TEXT_MODEL

SUFFIX = ".safetensors"
WORTH_SAYING = 0.01
"""Part of a change."""


@dataclass(frozen=True)
class LoraTarget:
    """Where an extracted LoRA goes.

    Attributes:
        path: a new `.safetensors` file.
        dtype: of its numbers.
        is_numbered: if the name is taken, add a number to it.
    """

    path: Path
    dtype: torch.dtype
    is_numbered: bool = False


@dataclass(frozen=True)
class LoraWritten:
    """A LoRA that was extracted, and how much of the change of each network it holds, by the network's title."""

    path: Path
    shares: Mapping[str, KeptChange]

    def sentences(self) -> list[str]:
        """What it keeps and cannot hold: one for each network."""
        told = []
        for title, share in self.shares.items():
            line = f"{title}: {share.of_layers:.1%} of the change of its layers is kept"
            if not share.in_layers + share.elsewhere:
                line = f"{title}: not changed by the training"
            elif share.lost_elsewhere >= WORTH_SAYING:
                line += f"; {share.lost_elsewhere:.1%} of all change is in other weights, which this LoRA cannot hold"
            told.append(f"{line[0].upper()}{line[1:]}.")
        return told


def extract_lora(base: Path, tuned: Path, target: LoraTarget, options: RankOptions, report: Report) -> LoraWritten:
    """Write what training made of `base` in `tuned` as a LoRA; nothing is overwritten.

    `report` is called after each layer with the network's title; what it raises ends the extraction.

    Raises:
        ModelError: a model cannot be read, they do not belong together, or nothing differs.
        CheckpointError: the file could not be written.
    """
    if not target.is_numbered:
        require_free(target.path)
    if target.path.suffix.lower() != SUFFIX:
        raise not_written(target.path, f"a LoRA is a {SUFFIX} file.", f"Give it a name that ends in {SUFFIX}.")
    before, after = _opened(base), _opened(tuned)
    family = FACTS[before.family]
    if after.family != before.family:
        what = f"{printable(str(base))} is an {family.title} model, this an {FACTS[after.family].title} model."
        raise _unlike(tuned, what)
    weights = _weights(before), _weights(after)
    for part in family.parts:
        if part.is_trainable:
            _require_alike(tuned, part.name, weights[0][part.name], weights[1][part.name])

    found = extract(family, *weights, options, report)
    if not found.layers:
        raise _unlike(tuned, "no layer of it differs from the base.")
    prediction_type = Description.of_scheduler(after.config(SCHEDULER_CONFIG)).prediction_type
    about = ModelSpec(target.path.stem).metadata(family.name, prediction_type)
    place = _numbered if target.is_numbered else placed
    path = write_lora(target.path, found.layers, family, about, dtype=target.dtype, place=place)
    return LoraWritten(path, {family.part(name).title: share for name, share in found.shares.items()})


def merge_lora(base: Path, lora: Path, target: Path, strength: float, *, dtype: torch.dtype | None = None) -> Merged:
    """Write a model with a LoRA times `strength` added to its weights; nothing is overwritten.

    The target is a new folder or, by its ending, a single file; its numbers are of `dtype`, or as they are.

    Raises:
        ModelError: the model or the LoRA cannot be read, or the LoRA is for another family.
        CheckpointError: the file could not be written.
    """
    layers = read_lora(lora)
    done: list[Merged] = []

    def add(model: ModelSource, weights: Weights) -> Weights:
        done.append(merge(FACTS[model.family], weights, layers, strength, lora))
        return done[0].weights

    convert(base, target, dtype=dtype, change=add)
    return done[0]


def _numbered(temporary: Path, target: Path) -> Path:
    """Give a finished file its name, with the lowest number that makes it one of its own."""
    candidate, number = target, 1
    while not rename_if_free(temporary, candidate):
        number += 1
        candidate = target.with_stem(f"{target.stem} ({number})")
    return candidate


def _opened(path: Path) -> ModelSource:
    place = locate(str(path))
    return open_base(place.path if place else path, {})


def _weights(model: ModelSource) -> dict[str, dict[str, Tensor]]:
    """The weights of a model, read from the disk as they are used; text encoders by the shorter of their names."""
    parts = parts_of(model, mapped_tensors)
    for encoder in FACTS[model.family].text_encoders:
        parts[encoder.name] = {key.removeprefix(TEXT_MODEL): tensor for key, tensor in parts[encoder.name].items()}
    return parts


def _require_alike(path: Path, part: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Raise ModelError unless two networks have the same weights."""
    names = [name for name, tensor in before.items() if tensor.is_floating_point()]
    wrong = [name for name in names if name not in after or after[name].shape != before[name].shape]
    if wrong:
        raise _unlike(path, f"its {part} has other weights than that of the base, such as {printable(min(wrong))}.")


def _unlike(path: Path, what: str) -> ModelError:
    problem = Problem(None, what, "Choose the model that the training began with as BASE.")
    return ModelError(f"{printable(str(path), 1000)} did not come from this base:", [problem])
