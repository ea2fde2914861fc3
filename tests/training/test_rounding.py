"""Weights in bf16: stochastic rounding, and updates as large as those of weights in fp32."""

import pytest
import torch
from torch import Tensor, nn

from ed2.checkpoint.optimizer_state import flatten_state, restore_state
from ed2.checkpoint.snapshot import to_host
from ed2.registry import OPTIMIZERS
from ed2.settings.checks import LOW_MEMORY_OPTIMIZERS
from ed2.training.optimizer_factories import OptimizerOptions
from ed2.training.optimizers import Optimizers
from ed2.training.rounding import Rounding, round_stochastically

SHAPE = (96, 64)
"""Large enough for 8-bit state."""
MANY = 200_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_is_rounded_up_with_the_probability_of_its_place(share: float, sign: int) -> None:
    low, gap = 1.5, 2.0**-7
    rounded = round_stochastically(torch.full((MANY,), sign * (low + share * gap)), generator()).float() * sign
    assert set(rounded.tolist()) == {low, low + gap}
    assert float((rounded - low).mean() / gap) == pytest.approx(share, abs=0.005)


def test_numbers_of_bf16_stay_as_they_are_and_so_do_infinite_ones() -> None:
    numbers = torch.randn(MANY, generator=generator()).bfloat16()
    numbers[:4] = torch.tensor([0.0, float("inf"), -float("inf"), 1e-38])
    assert torch.equal(round_stochastically(numbers.float(), generator()), numbers)
    assert round_stochastically(torch.tensor([float("nan")] * 9), generator()).isnan().all()


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (4, 3, 2, 5)])
def test_every_shape_and_layout_keeps_its_numbers_in_place(shape: tuple[int, ...]) -> None:
    numbers = torch.randn(shape, generator=generator()).bfloat16()
    if len(shape) == 4:
        numbers = numbers.to(memory_format=torch.channels_last)
    rounded = round_stochastically(numbers.float(), generator())
    assert torch.equal(rounded, numbers) and rounded.stride() == numbers.stride()
    strided = torch.randn((6, 8), generator=generator()).bfloat16()[:, ::2]
    assert torch.equal(round_stochastically(strided.float()[:, :], generator()), strided)


def trainer(name: str, start: Tensor, lr: float, *, rounding: bool) -> tuple[nn.Parameter, Optimizers]:
    parameter = nn.Parameter(start.clone())
    optimizer = OPTIMIZERS.load(name)([parameter], OptimizerOptions(lr, weight_decay=0.0))
    names = Rounding(1, {parameter: "unet/weight"}) if rounding else None
    optimizers = Optimizers({"unet": optimizer}, {"unet": lr}, rounding=names)
    optimizers.make_state()
    return parameter, optimizers


def moved(name: str, start: Tensor, *, steps: int, rounding: bool) -> Tensor:
    parameter, optimizers = trainer(name, start, 1e-6, rounding=rounding)
    direction = torch.ones(SHAPE)
    direction[:, ::2] = -1
    for step in range(steps):
        optimizers.set_lr(step)
        noise = torch.randn(SHAPE, generator=generator(step)) * 0.1
        parameter.grad = (direction + noise).to(parameter.dtype)
        optimizers.step()
    return (parameter.detach().float() - start.float()) * -direction


@pytest.mark.parametrize("name", LOW_MEMORY_OPTIMIZERS)
def test_two_thousand_steps_move_a_weight_in_bf16_as_far_as_one_in_fp32(name: str) -> None:
    # As large as weights of a UNet: 1e-6 is far below the precision of bf16 and far above that of fp32.
    start = (torch.rand(SHAPE, generator=generator(5)) * 0.03 + 0.03).bfloat16()
    half = moved(name, start, steps=2000, rounding=True)
    full = moved(name, start.float(), steps=2000, rounding=False)
    assert float(full.mean()) > 1e-3
    assert float(half.mean()) == pytest.approx(float(full.mean()), rel=0.02)


def test_bits_depend_on_seed_update_and_name_only() -> None:
    parameter, other = nn.Parameter(torch.zeros(100)), nn.Parameter(torch.zeros(100))
    exact = torch.full((100,), 1.0 + 2.0**-8)

    def rounded(seed: int, update: int, of: nn.Parameter) -> Tensor:
        return Rounding(seed, {parameter: "unet/a", other: "unet/b"}).rounded(of, exact.clone(), update)

    first = rounded(1, 5, parameter)
    changed = [rounded(2, 5, parameter), rounded(1, 6, parameter), rounded(1, 5, other)]
    assert not any(torch.equal(first, draw) for draw in changed)
    assert torch.equal(first, rounded(1, 5, parameter))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", LOW_MEMORY_OPTIMIZERS)
def test_state_of_weights_in_bf16_is_in_fp32_and_restored_to_the_same_bytes(
    name: str, layout: torch.memory_format
) -> None:
    start = torch.randn((16, 8, 8, 8), generator=generator()).bfloat16().to(memory_format=layout)
    first, optimizers = trainer(name, start, 1e-2, rounding=True)

    def steps(parameter: nn.Parameter, chosen: Optimizers, numbers: range) -> None:
        for step in numbers:
            chosen.set_lr(step)
            drawn = torch.randn(start.shape, generator=generator(step)).bfloat16()
            parameter.grad = drawn.to(memory_format=layout)
            chosen.step()

    steps(first, optimizers, range(3))
    tensors, numbers = flatten_state(optimizers.by_network["unet"], to_host)
    assert all(tensor.dtype != torch.bfloat16 for tensor in tensors.values())
    copy, resumed = trainer(name, first.detach(), 1e-2, rounding=True)
    restore_state(resumed.by_network["unet"], {name: t.clone() for name, t in tensors.items()}, numbers)
    steps(first, optimizers, range(3, 6))
    steps(copy, resumed, range(3, 6))
    assert torch.equal(first, copy) and first.stride() == start.stride()
