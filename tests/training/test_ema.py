"""The moving average against its formula, and that the weights come back exactly."""

import pytest
import torch
from torch import nn

from ed2.models.parts import Part
from ed2.training.ema import Ema, decay_for_strength

CPU = torch.device("cpu")


def network() -> nn.Linear:
    made = nn.Linear(3, 2)
    with torch.no_grad():
        made.weight.fill_(1.0)
    made.bias.requires_grad_(False)
    return made


def moved(net: nn.Linear, value: float) -> None:
    with torch.no_grad():
        net.weight.fill_(value)


def test_the_average_follows_its_formula_at_its_interval() -> None:
    net = network()
    ema = Ema({"unet": Part("unet", net)}, decay=0.75, interval=2, device=CPU)
    expected = 1.0
    for step in range(1, 7):
        moved(net, float(step))
        ema.update(step)
        expected = 0.75 * expected + 0.25 * step if step % 2 == 0 else expected
    assert ema.state()["unet"]["weight"].flatten().tolist() == pytest.approx([expected] * 6)


def test_only_what_is_trained_is_averaged() -> None:
    assert list(Ema({"unet": Part("unet", network())}, decay=0.9, interval=1, device=CPU).state()["unet"]) == ["weight"]


def test_a_strength_target_is_the_share_of_the_initial_weights_left_at_the_end() -> None:
    decay = decay_for_strength(0.1, total_steps=100, interval=5)
    assert decay**20 == pytest.approx(0.1)
    assert decay_for_strength(0.1, total_steps=3, interval=500) == pytest.approx(0.1)


def test_the_ema_is_swapped_in_and_the_weights_are_restored_exactly() -> None:
    net = network()
    ema = Ema({"unet": Part("unet", net)}, decay=0.5, interval=1, device=CPU)
    moved(net, 1 / 3)
    before = net.weight.detach().clone()
    with pytest.raises(RuntimeError, match="stopped"), ema.in_place():
        assert net.weight.flatten().tolist() == [1.0] * 6
        raise RuntimeError("stopped")
    assert torch.equal(net.weight, before)


def test_a_restored_average_continues() -> None:
    net = network()
    one, other = (Ema({"unet": Part("unet", net)}, decay=0.5, interval=1, device=CPU) for _ in range(2))
    moved(net, 4.0)
    one.update(1)
    other.restore(one.state())
    assert torch.equal(other.state()["unet"]["weight"], one.state()["unet"]["weight"])
