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


class Muon(torch.optim.Optimizer):
    """Muon for weights of two or more dimensions; those beyond the first count as one (convolutions)."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all parameters; equal shapes are orthogonalized together."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[torch.nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[(parameter.shape[0], parameter[0].numel())].append(parameter)
            for shape, parameters in by_shape.items():
                self._update(parameters, shape, group)

    def _update(self, parameters: list[torch.nn.Parameter], shape: tuple[int, int], group: dict[str, float]) -> None:
        directions = []
        for parameter in parameters:
            state = self.state[parameter]
            average = state.setdefault("average", torch.zeros(parameter.shape))
            average.lerp_(parameter.grad, 1 - group["momentum"])
            directions.append(parameter.grad.lerp(average, group["momentum"]).reshape(shape))
        size = max(1.0, shape[0] / shape[1]) ** 0.5
        for parameter, update in zip(parameters, orthogonalize(torch.stack(directions)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * size)
