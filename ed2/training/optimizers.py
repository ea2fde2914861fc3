"""Optimizers, and the set of them that a run steps together."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

BETAS = (0.9, 0.999)
EPSILON = 1e-8
WEIGHT_DECAY = 0.01


def adamw(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """AdamW, all parameters in one fused kernel.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """
    return torch.optim.AdamW(parameters, lr=lr, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY, fused=True)


def adamw8bit(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """AdamW whose state takes one byte a number, quantised in blocks; tensors under 4096 numbers stay in fp32.

    Source: Dettmers et al. 2022, arXiv:2110.02861.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import bitsandbytes

    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
        parameters, lr=lr, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY
    )
    return optimizer


@dataclass(frozen=True)
class Optimizers:
    """One optimizer for each trained network, with its own learning rate.

    Attributes:
        by_network: optimizer by the network's name.
        base_lrs: learning rate of each before the schedule.
    """

    by_network: Mapping[str, torch.optim.Optimizer]
    base_lrs: Mapping[str, float]

    def __iter__(self) -> Iterator[torch.optim.Optimizer]:
        return iter(self.by_network.values())

    def set_lr(self, factor: float) -> None:
        """Set every learning rate to its base times `factor`."""
        for name, optimizer in self.by_network.items():
            for group in optimizer.param_groups:
                group["lr"] = self.base_lrs[name] * factor

    def lrs(self) -> dict[str, float]:
        """The learning rates now, by network."""
        return {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in self.by_network.items()}

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self:
            optimizer.zero_grad(set_to_none=True)
