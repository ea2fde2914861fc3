"""LoRA as a way to train a network: its weights stay as they are, and small matrices beside them are trained."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ed2.draws import rng
from ed2.models.base import ADAPTER, BatchVisits
from ed2.models.lora.dropout import VisitDropout
from ed2.models.lora.names import carrying


@dataclass(frozen=True)
class AdapterOptions:
    """How a LoRA is trained.

    Attributes:
        rank: of its matrices.
        alpha: their product is multiplied by this, divided by the rank.
        layers: a key of `names.LAYERS`.
        seed: of their first values, and of what is dropped.
        dora: the length of each row of a weight is trained apart from its direction.
        dropout: share of a layer's inputs that its adapter does not see in training.
        visits: those of the batch that is being trained.
    """

    rank: int
    alpha: float
    layers: str
    seed: int
    dora: bool = False
    dropout: float = 0.0
    visits: BatchVisits = field(default_factory=BatchVisits)


def add_adapter(name: str, network: nn.Module, options: AdapterOptions) -> None:
    """Freeze a network and add adapters to its layers, in fp32 whatever the network is in.

    The second matrix of each is zero, so that the network computes what it did. Source: Hu et al. 2021,
    arXiv:2106.09685, section 4.1; of DoRA Liu et al. 2024, arXiv:2402.09353, section 4.

    Args:
        name: of the network.
        network: of diffusers or transformers; changed in place.
        options: how it is trained.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes a second, and most runs do without

    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    layers = sorted(carrying(shapes, options.layers))
    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=layers, use_dora=options.dora)
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(int(rng(options.seed, "lora", name).integers(2**63)))
        inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    for key, parameter in network.named_parameters():
        if f".{ADAPTER}." in key:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    for layer in layers:
        adapted: Any = network.get_submodule(layer)
        if options.dora:
            _measure(adapted)
        if options.dropout:
            dropout = VisitDropout(options.dropout, options.seed, f"{name}.{layer}", options.visits)
            adapted.lora_dropout[ADAPTER] = dropout


def _measure(layer: Any) -> None:
    """Set the magnitudes to the lengths of the weight's rows; peft's are rounded to the precision of the weight."""
    magnitude, weight = layer.lora_magnitude_vector[ADAPTER].weight, layer.get_base_layer().weight
    magnitude.data = torch.linalg.vector_norm(weight.data.float().flatten(1), dim=1).view_as(magnitude)
