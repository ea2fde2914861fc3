"""Adding a LoRA to the weights of a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ed2.errors import ModelError, Problem, printable
from ed2.models.families.facts import FamilyFacts
from ed2.models.lora.extraction import Weights
from ed2.models.lora.file import LoraLayer
from ed2.models.lora.names import all_names

EPSILON = 1e-12
"""Least length of a row, so that a row of zeros stays one."""


@dataclass(frozen=True)
class Merged:
    """The weights of a model with a LoRA in them.

    Attributes:
        weights: of each network.
        num_layers: how many layers were changed.
        left_out: names of the LoRA's layers that the model does not have.
    """

    weights: dict[str, dict[str, Tensor]]
    num_layers: int
    left_out: tuple[str, ...]


def merged(
    family: FamilyFacts, weights: Weights, layers: Mapping[str, LoraLayer], strength: float, path: Path
) -> Merged:
    """The weights of a model with a LoRA added; each is computed in fp32 and keeps its type.

    Args:
        family: of the model.
        weights: of its networks.
        layers: of the LoRA, by the names of `read_lora`.
        strength: what the LoRA is multiplied by.
        path: of the LoRA's file, for errors.

    Raises:
        ModelError: the LoRA is for another family of models.
    """
    changed = {name: dict(tensors) for name, tensors in weights.items()}
    left, wrong = set(layers), []
    for part in family.parts:
        if not part.is_trainable:
            continue
        tensors = changed[part.name]
        modules = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
        for alias, module in all_names(family, part, modules).items():
            if alias not in left:
                continue
            left.remove(alias)
            name = f"{module}.weight"
            if _fits(layers[alias], tensors[name]):
                tensors[name] = with_layer(tensors[name], layers[alias], strength)
            else:
                wrong.append(f"{name} of the {part.name}")
    num_layers = len(layers) - len(left)
    if wrong or not num_layers:
        raise _for_another_family(path, family, wrong, left)
    return Merged(changed, num_layers, tuple(sorted(left)))


def with_layer(weight: Tensor, layer: LoraLayer, strength: float) -> Tensor:
    """A weight with a LoRA or DoRA added.

    Source of DoRA: Liu et al. 2024, arXiv:2402.09353, equation 5; its files measure rows or columns.
    """
    before = weight.float()
    after = before + layer.change().reshape(before.shape)
    if layer.dora_scale is not None:
        scale = layer.dora_scale.float().flatten()
        of_rows = len(layer.dora_scale) == len(before)
        matrix = after.flatten(1) if of_rows else after.transpose(0, 1).flatten(1)
        lengths = torch.linalg.vector_norm(matrix, dim=1).clamp_min(EPSILON)
        shape = [1] * before.ndim
        shape[0 if of_rows else 1] = -1
        after = after * (scale / lengths).view(shape)
    return (before + strength * (after - before)).to(weight.dtype)


def _fits(layer: LoraLayer, weight: Tensor) -> bool:
    """Whether the shapes of a layer are those of a weight; a 1x1 convolution is a matrix as well."""
    if layer.up.shape[1] != layer.rank:
        return False
    if layer.dora_scale is not None and layer.dora_scale.numel() != weight.shape[len(layer.dora_scale) != len(weight)]:
        return False
    given = (len(layer.up), *layer.down.shape[1:])
    return _as_matrix(given) == _as_matrix(tuple(weight.shape))


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1, 1) else shape


def _for_another_family(path: Path, family: FamilyFacts, wrong: list[str], left: Iterable[str]) -> ModelError:
    if wrong:
        what = f"{len(wrong)} of its layers have other sizes than an {family.title} model, such as {min(wrong)}."
    else:
        what = f"none of its layers are in an {family.title} model; one is {printable(min(left))}."
    problem = Problem(None, what, "Choose a LoRA that was made for this kind of model.")
    return ModelError(f"The LoRA {printable(str(path), 1000)} does not fit:", [problem])
