"""The planned optimizer state, compared with real optimizers."""

import math

import pytest
import torch
from torch import nn

from ed2.registry import OPTIMIZERS
from ed2.training.optimizer_factories import OptimizerOptions
from ed2.vram.shapes import TrainedWeights, state_bytes

SHAPES = ((512, 256), (64, 64, 3, 3), (64, 128, 1, 1), (64,))


def trained() -> TrainedWeights:
    """The counts of these shapes, each by its own rule."""
    sizes = [math.prod(shape) for shape in SHAPES]
    factored = [math.prod(s) // s[-1] + math.prod(s) // s[-2] if len(s) > 1 else s[0] for s in SHAPES]
    return TrainedWeights(sum(sizes), sum(size for size in sizes if size < 4096), max(sizes), sum(factored))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_the_state_of_an_optimizer_has_the_planned_size(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    optimizer = OPTIMIZERS.load(name)(parameters, OptimizerOptions(1e-3))
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    tensors = {t.data_ptr(): t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t)}
    shared = 2 * 256 * 4  # the two tables of 8-bit numbers, one for all parameters
    measured = sum(tensor.nbytes for tensor in tensors.values() if tensor.numel() > 1)
    assert measured == pytest.approx(state_bytes(name, trained()), abs=shared + 64)
