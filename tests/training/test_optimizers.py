"""Each optimizer against the formula of its paper, in plain loops over single numbers, and its state put back."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ed2.checkpoint.optimizer_state import changed_options, flatten_state, restore_state
from ed2.checkpoint.snapshot import to_host
from ed2.errors import SettingsError
from ed2.registry import OPTIMIZERS
from ed2.training import optimizer_factories
from ed2.training.optimizer_factories import OptimizerOptions
from ed2.training.optimizers import Optimizers, make_state, parameters_of

OPTIONS = OptimizerOptions(lr=1e-2, betas=(0.9, 0.99), epsilon=1e-8, weight_decay=0.1)
STEPS = 4


def gradient(step: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


def start(shape: tuple[int, ...] = (3, 2)) -> nn.Parameter:
    return nn.Parameter(gradient(99, shape))


def stepped(name: str, parameter: nn.Parameter, options: OptimizerOptions = OPTIONS) -> torch.optim.Optimizer:
    optimizer = OPTIMIZERS.load(name)([parameter], options)
    for step in range(STEPS):
        parameter.grad = gradient(step, tuple(parameter.shape))
        optimizer.step()
    return optimizer


def each_number(formula: Callable[[float, list[float]], float]) -> Tensor:
    """Apply `formula` to each starting number and its gradients."""
    first = start().detach().double().flatten()
    gradients = torch.stack([gradient(step, (3, 2)).double().flatten() for step in range(STEPS)])
    return torch.tensor([formula(float(w), gradients[:, i].tolist()) for i, w in enumerate(first)]).view(3, 2)


def plain_adamw(weight: float, gradients: list[float]) -> float:
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        weight -= OPTIONS.lr * OPTIONS.weight_decay * weight
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        weight -= OPTIONS.lr * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.99**t)) + 1e-8)
    return weight


def plain_lion(weight: float, gradients: list[float]) -> float:
    m = 0.0
    for g in gradients:
        update = math.copysign(1.0, 0.9 * m + 0.1 * g)
        weight -= OPTIONS.lr * (update + OPTIONS.weight_decay * weight)
        m = 0.99 * m + 0.01 * g
    return weight


def plain_schedulefree(weight: float, gradients: list[float]) -> float:
    """The average x; algorithm 1 of arXiv:2405.15682, constant rate, decay at y."""
    x = z = weight
    v = 0.0
    for t, g in enumerate(gradients, 1):
        y = 0.1 * z + 0.9 * x
        v = 0.99 * v + 0.01 * g * g
        z -= OPTIONS.lr * (g / (math.sqrt(v / (1 - 0.99**t)) + 1e-8) + OPTIONS.weight_decay * y)
        x += (z - x) / t
    return x


@pytest.mark.parametrize(
    ("name", "formula"), [("adamw", plain_adamw), ("lion", plain_lion), ("schedulefree", plain_schedulefree)]
)
def test_a_few_steps_equal_the_plain_formula(name: str, formula: Callable[[float, list[float]], float]) -> None:
    parameter = start()
    set_of = Optimizers({"unet": stepped(name, parameter)}, {"unet": 1e-2})
    with set_of.averaged():
        assert torch.allclose(parameter.detach().double(), each_number(formula).double(), atol=1e-6)


def test_adafactor_keeps_rows_and_columns_and_equals_its_algorithm() -> None:
    parameter, w = start(), start().detach().double()
    optimizer = stepped("adafactor", parameter)
    row, column = torch.zeros(3).double(), torch.zeros(2).double()
    for t in range(1, STEPS + 1):
        g = gradient(t - 1, (3, 2)).double()
        beta = 1 - t**-0.8
        row = beta * row + (1 - beta) * (g**2 + 1e-30).mean(1)
        column = beta * column + (1 - beta) * (g**2 + 1e-30).mean(0)
        update = g / (row[:, None] * column[None, :] / row.mean()).sqrt()
        update /= max(1.0, float(update.pow(2).mean().sqrt()))
        w = w - OPTIONS.lr * OPTIONS.weight_decay * w - OPTIONS.lr * update
    assert torch.allclose(parameter.detach().double(), w, atol=1e-6)
    assert sum(value.numel() for value in optimizer.state[parameter].values() if isinstance(value, Tensor)) < 8


@pytest.mark.parametrize(("eight", "full"), [("adamw8bit", "adamw"), ("lion8bit", "lion")])
def test_eight_bit_steps_are_close_to_full_ones_at_a_quarter_of_the_state(eight: str, full: str) -> None:
    small, large = start((64, 128)), start((64, 128))
    before = small.detach().clone()
    quantised, plain = stepped(eight, small), stepped(full, large)
    ours, theirs = (small.detach() - before).flatten(), (large.detach() - before).flatten()
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.97
    assert state_bytes(quantised) < 0.35 * state_bytes(plain)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    values = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    return sum(v.nbytes for v in values if v.numel() > 256)


def test_the_rate_that_prodigy_finds_is_reported() -> None:
    parameter = start((16, 16))
    target = gradient(7, (16, 16))
    optimizer = OPTIMIZERS.load("prodigy")([parameter], OptimizerOptions(lr=1.0))
    for _ in range(500):
        parameter.grad = parameter.detach() - target
        optimizer.step()
    lrs = Optimizers({"unet": optimizer}, {"unet": 1.0}).lrs()
    assert lrs["unet"] > 1e-4
    assert (parameter.detach() - target).norm() < 0.5 * (start((16, 16)).detach() - target).norm()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_restored_state_continues_to_the_same_bytes(name: str, layout: torch.memory_format) -> None:
    shape = (16, 8, 8, 8)
    parameter = nn.Parameter(start(shape).detach().to(memory_format=layout))
    optimizer = stepped(name, parameter)
    copy = nn.Parameter(parameter.detach().clone())
    resumed = OPTIMIZERS.load(name)([copy], OPTIONS)
    tensors, numbers = flatten_state(optimizer, to_host)
    restore_state(resumed, {name: t.clone() for name, t in tensors.items()}, numbers, changed_options(optimizer))
    for step in range(3):
        for one, of in ((optimizer, parameter), (resumed, copy)):
            of.grad = gradient(50 + step, shape).to(memory_format=layout)
            one.step()
    assert torch.equal(parameter, copy)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_state_made_before_the_first_step_gives_the_same_bytes(name: str, layout: torch.memory_format) -> None:
    shapes = [(16, 8, 8, 8), (64, 128), (9,)]
    ready, plain = ([nn.Parameter(start(s).detach().clone()) for s in shapes] for _ in range(2))
    for parameters in (ready, plain):
        parameters[0].data = parameters[0].data.to(memory_format=layout)
    made, lazy = (OPTIMIZERS.load(name)(parameters, OPTIONS) for parameters in (ready, plain))
    options = [dict(group) for group in made.param_groups]
    make_state(made, ready)
    assert made.param_groups == options
    assert ready[0].stride() == plain[0].stride()
    assert all(parameter.grad is None for parameter in ready)
    for step in range(3):
        for optimizer, parameters in ((made, ready), (lazy, plain)):
            for parameter in parameters:
                parameter.grad = gradient(step, tuple(parameter.shape))
            optimizer.step()
        assert all(map(torch.equal, ready, plain)), step
        assert same_state(made, lazy), step


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_weights_and_state_keep_their_memory_layout(name: str) -> None:
    shape, moved = (16, 8, 4, 4), list[Tensor]()
    for layout in (torch.contiguous_format, torch.channels_last):
        parameter = nn.Parameter(start(shape).detach().to(memory_format=layout))
        optimizer = OPTIMIZERS.load(name)([parameter], OptimizerOptions(lr=1e-2))
        for step in range(STEPS):
            parameter.grad = gradient(step, shape).to(memory_format=layout)
            optimizer.step()
            assert parameter.is_contiguous(memory_format=layout)
            assert parameter.grad.is_contiguous(memory_format=layout)
        state = [v for v in optimizer.state[parameter].values() if isinstance(v, Tensor) and v.shape == shape]
        assert all(value.stride() == parameter.stride() for value in state)
        moved.append((parameter.detach() - start(shape)).flatten())
    assert torch.cosine_similarity(*moved, dim=0) > 0.95


def same_state(one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> bool:
    (tensors, numbers), (expected, expected_numbers) = (flatten_state(o, to_host) for o in (one, other))
    assert tensors.keys() == expected.keys()
    bytes_of = [[t.numpy().tobytes() for t in named.values()] for named in (tensors, expected)]
    return bytes_of[0] == bytes_of[1] and numbers == expected_numbers and strides(one) == strides(other)


def strides(optimizer: torch.optim.Optimizer) -> list[tuple[int, ...]]:
    return [v.stride() for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]


def test_state_is_made_in_the_layout_and_with_the_tables_of_the_first_step() -> None:
    parameters = [start((64, 128)), start((64, 128))]
    optimizer = OPTIMIZERS.load("adamw8bit")(parameters, OPTIONS)
    make_state(optimizer, parameters)
    one, other = (optimizer.state[parameter] for parameter in parameters)
    assert one["step"] == 0 and not one["state1"].any()
    assert one["qmap1"] is other["qmap1"]  # shared by all parameters


def test_a_parameter_without_a_gradient_keeps_no_state_after_the_first_update() -> None:
    used, unused = start((64, 128)), start((9,))
    optimizers = Optimizers({"unet": OPTIMIZERS.load("adamw")([used, unused], OPTIONS)}, {"unet": 1e-2})
    optimizers.make_state()
    assert unused in optimizers.by_network["unet"].state
    used.grad = gradient(0, (64, 128))
    optimizers.step()
    assert list(optimizers.by_network["unet"].state) == [used]


def test_averaged_weights_are_swapped_for_the_trained_ones_exactly() -> None:
    parameter = start()
    optimizer = stepped("schedulefree", parameter)
    trained = parameter.detach().clone()
    set_of = Optimizers({"unet": optimizer}, {"unet": 1e-2})
    with set_of.averaged():
        assert not torch.equal(parameter, trained)
    assert torch.equal(parameter, trained)
    parameter.grad = gradient(5, (3, 2))
    optimizer.step()


def test_lion_takes_the_betas_of_its_paper_when_none_are_given() -> None:
    optimizer = OPTIMIZERS.load("lion")([start()], OptimizerOptions(lr=1e-4))
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert len(parameters_of(optimizer)) == 1


def test_an_optional_part_that_is_missing_is_named_with_its_command() -> None:
    with pytest.raises(SettingsError, match=r"needs no_such_module.*\./launch\.sh add prodigy"):
        optimizer_factories._optional("no_such_module", "prodigy")
