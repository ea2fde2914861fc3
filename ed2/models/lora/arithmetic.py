"""The difference between two models as a LoRA, and a LoRA added to the weights of a model."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ed2.errors import ModelError, Problem, printable
from ed2.models.families.facts import FamilyFacts
from ed2.models.lora.file import LoraLayer
from ed2.models.lora.names import all_names, carrying, kohya_names

Weights = Mapping[str, Mapping[str, Tensor]]
"""The tensors of each network by its name, by their diffusers or transformers names."""
Report = Callable[[str, int, int], None]
"""Called with the title of the network, how many of its layers are done, and how many there are."""
EPSILON = 1e-12
"""Least length of a row, so that a row of zeros stays one."""


@dataclass
class KeptChange:
    """How much of the change of a network a LoRA holds; all are sums of squares.

    Attributes:
        kept: in the LoRA.
        in_layers: of the layers that the LoRA changes.
        elsewhere: of all other weights, such as norms, biases and embeddings.
    """

    kept: float = 0.0
    in_layers: float = 0.0
    elsewhere: float = 0.0

    @property
    def of_layers(self) -> float:
        """The part of the layers' change that is kept; 1 if nothing changed."""
        if not self.in_layers:
            return 1.0
        return self.kept / self.in_layers

    @property
    def lost_elsewhere(self) -> float:
        """The part of the whole change that no LoRA of these layers can hold."""
        whole = self.in_layers + self.elsewhere
        if not whole:
            return 0.0
        return self.elsewhere / whole


@dataclass
class Extracted:
    """A LoRA that was taken from two models.

    Attributes:
        layers: by kohya's names; layers that did not change are left out.
        shares: by network.
    """

    layers: dict[str, LoraLayer] = field(default_factory=dict)
    shares: dict[str, KeptChange] = field(default_factory=dict)


@dataclass(frozen=True)
class RankOptions:
    """How large a LoRA is.

    Attributes:
        rank: of each layer at most.
        keep: the rank of each layer is the lowest that keeps this part of its change; 1 takes `rank` everywhere.
        layers: a key of `names.LAYERS`.
    """

    rank: int
    keep: float = 1.0
    layers: str = "all"


def extract(family: FamilyFacts, base: Weights, tuned: Weights, options: RankOptions, report: Report) -> Extracted:
    """The difference `tuned` - `base` of all text encoders and the UNet as a LoRA.

    The LoRA of a layer with the difference U S V is U S^1/2 and S^1/2 V, cut to the largest values of S: of all
    matrices of that rank their product is the nearest. Source: Eckart and Young 1936.

    Args:
        family: of both models.
        base: the weights of the model that the LoRA is for.
        tuned: the weights after training.
        options: how large it is to be.
        report: is called after each layer.
    """
    found = Extracted()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for part in family.parts:
        if not part.is_trainable:
            continue
        before, after = base[part.name], tuned[part.name]
        modules = [name.removesuffix(".weight") for name in before if name.endswith(".weight")]
        names = kohya_names(family, part, modules)
        carried = carrying({name: tuple(tensor.shape) for name, tensor in before.items()}, options.layers)
        share = found.shares[part.name] = KeptChange()
        share.elsewhere = sum(_square(before[name], after[name]) for name in _others(before, carried))
        for number, module in enumerate(carried, 1):
            difference = _difference(before[f"{module}.weight"], after[f"{module}.weight"])
            share.in_layers += float(difference.double().square().sum())
            if difference.any():
                layer, kept = _nearest(difference.to(device), options)
                found.layers[names[module]] = layer
                share.kept += kept
            report(part.title, number, len(carried))
    return found


def _others(tensors: Mapping[str, Tensor], carried: list[str]) -> list[str]:
    weights = {f"{module}.weight" for module in carried}
    return [name for name, tensor in tensors.items() if name not in weights and tensor.is_floating_point()]


def _difference(before: Tensor, after: Tensor) -> Tensor:
    return after.float() - before.float()


def _square(before: Tensor, after: Tensor) -> float:
    return float(_difference(before, after).double().square().sum())


def _nearest(difference: Tensor, options: RankOptions) -> tuple[LoraLayer, float]:
    """The layer that comes nearest to a difference (out, in) or (out, in, k, k), and the sum of squares it keeps."""
    left, values, right = torch.linalg.svd(difference.flatten(1), full_matrices=False)
    squares = values.double().square()
    rank = min(options.rank, len(values))
    if options.keep < 1:
        reached = squares.cumsum(0) / squares.sum()
        rank = min(rank, 1 + int((reached < options.keep).sum()))
    root = values[:rank].sqrt()
    up, down = left[:, :rank] * root, root[:, None] * right[:rank]
    if difference.ndim > 2:
        up, down = up[:, :, None, None], down.reshape(rank, *difference.shape[1:])
    return LoraLayer(down.cpu(), up.cpu(), float(rank)), float(squares[:rank].sum())


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


def merge(
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
