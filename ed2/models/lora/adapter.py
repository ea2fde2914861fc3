"""LoRA as a way to train a network: its weights stay as they are, and small matrices beside them are trained."""

from dataclasses import dataclass

import torch
from torch import nn

from ed2.draws import rng
from ed2.models.base import ADAPTER
from ed2.models.lora.names import carrying


@dataclass(frozen=True)
class AdapterOptions:
    """How a LoRA is trained.

    Attributes:
        rank: of its matrices.
        alpha: their product is multiplied by this, divided by the rank.
        layers: a key of `names.LAYERS`.
        seed: of their first values.
    """

    rank: int
    alpha: float
    layers: str
    seed: int


def add_adapter(name: str, network: nn.Module, options: AdapterOptions) -> None:
    """Freeze a network and add adapters to its layers, in fp32 whatever the network is in.

    The second matrix of each is zero, so that the network computes what it did. Source: Hu et al. 2021,
    arXiv:2106.09685, section 4.1.

    Args:
        name: of the network.
        network: of diffusers or transformers; changed in place.
        options: how it is trained.
    """
    from peft import LoraConfig, inject_adapter_in_model

    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    layers = sorted(carrying(shapes, options.layers))
    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=layers)
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(int(rng(options.seed, "lora", name).integers(2**63)))
        inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    for key, parameter in network.named_parameters():
        if f".{ADAPTER}." in key:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
