"""The difference between two models as a LoRA: per layer the largest singular values of the weights' difference."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ed2.models.families.facts import FamilyFacts
from ed2.models.lora.file import LoraLayer
from ed2.models.lora.names import carrying, kohya_names

Weights = Mapping[str, Mapping[str, Tensor]]
"""The tensors of each network by its name, by their diffusers or transformers names."""
Report = Callable[[str, int, int], None]
"""Called with the title of the network, how many of its layers are done, and how many there are."""


@dataclass
class Kept:
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
    shares: dict[str, Kept] = field(default_factory=dict)


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
        share = found.shares[part.name] = Kept()
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
