"""Muon: momentum whose matrices are made nearly orthogonal; fewer steps than AdamW for a short training."""

from collections import defaultdict
from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: torch.Tensor, num_iterations: int = 5) -> torch.Tensor:
    """Return the matrices, (count, rows, columns), with all singular values near 1.

    Each iteration multiplies x by a polynomial of x @ x.mT; so the polynomials' product is found from that small
    square alone, and applied once.

    Source: Jordan et al. 2024, Muon, the quintic Newton-Schulz iteration.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    identity = torch.eye(x.shape[-2])
    square, product = x @ x.mT, identity
    for iteration in range(num_iterations):
        factor = torch.baddbmm(a * identity + b * square, square, square, alpha=c)
        product = factor @ product if iteration else factor
        if iteration + 1 < num_iterations:
            square = factor @ square @ factor
    x = product @ x
    return x.mT if tall else x


class Muon:
    """Muon for weights of two or more dimensions; those beyond the first count as one (convolutions)."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], momentum: float = 0.95) -> None:
        self.momentum = momentum
        self.by_shape: dict[tuple[int, int], list[torch.nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            self.by_shape[parameter.shape[0], parameter[0].numel()].append(parameter)
        self.averages = {shape: torch.zeros(len(group), *shape) for shape, group in self.by_shape.items()}

    @torch.no_grad()
    def step(self, learning_rate: float, weight_decay: float = 0.01) -> None:
        """Update all parameters from their gradients; equal shapes are orthogonalized together."""
        for shape, parameters in self.by_shape.items():
            gradients = torch.stack([_gradient(parameter).reshape(shape) for parameter in parameters])
            average = self.averages[shape].lerp_(gradients, 1 - self.momentum)
            updates = orthogonalize(gradients.lerp(average, self.momentum))
            size = max(1.0, shape[0] / shape[1]) ** 0.5
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.mul_(1 - learning_rate * weight_decay)
                parameter.add_(update.reshape(parameter.shape), alpha=-learning_rate * size)


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
