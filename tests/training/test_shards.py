"""Optimizer state that several processes share out: the same weights and the same files as if one kept it all."""

import pytest
import torch
from torch import Tensor, nn

from ed2.checkpoint.optimizer_state import flatten_state, own_state, restore_state, states_elsewhere
from ed2.checkpoint.snapshot import to_host
from ed2.ranks.group import Follower, Leader
from ed2.registry import OPTIMIZERS
from ed2.settings.checks import SHARDED_OPTIMIZERS
from ed2.training.optimizer_factories import OptimizerOptions
from ed2.training.optimizers import Optimizers, parameters_of
from ed2.training.shards import Shards
from tests.ranks.threads import in_each

SHAPES = ((64, 128), (16, 8, 8, 8), (9,), (128, 64), (65, 65))
RATE = 1e-2
State = tuple[dict[str, Tensor], dict[str, object]]


def optimizers_of(name: str, rank: int = 0, size: int = 1) -> Optimizers:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    optimizer = OPTIMIZERS.load(name)(parameters, OptimizerOptions(RATE))
    return Optimizers({"unet": optimizer}, {"unet": RATE}, shards=Shards.deal(parameters, rank, size))


def weights_of(optimizers: Optimizers) -> list[Tensor]:
    return parameters_of(optimizers.by_network["unet"])


def give_gradients(optimizers: Optimizers, step: int) -> None:
    for place, parameter in enumerate(weights_of(optimizers)):
        generator = torch.Generator().manual_seed(100 * step + place)
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def hand_out(every: list[Optimizers]) -> None:
    """What `Ranks.hand_out` does: give all the weights of their owners."""
    for place, parameter in enumerate(weights_of(every[0])):
        owner = every[every[0].shards.owners[parameter]]
        for other in every:
            weights_of(other)[place].data.copy_(weights_of(owner)[place])


def stepped(every: list[Optimizers], steps: range) -> None:
    for step in steps:
        for optimizers in every:
            give_gradients(optimizers, step)
            optimizers.step()
        if len(every) > 1:
            hand_out(every)


def gathered(every: list[Optimizers]) -> State:
    """The state of all as rank 0 saves it, by real messages."""

    def work(ranks: Leader | Follower) -> State | None:
        own = every[ranks.rank]
        if isinstance(ranks, Follower):
            ranks.on_ask = lambda what, request: own_state(own)
            ranks.exchange("next step", {})
            return None
        elsewhere = states_elsewhere(own, ranks)["unet"]
        ranks.exchange("next step", {})
        return flatten_state(own.by_network["unet"], to_host, elsewhere)

    found = in_each(len(every), work)[0]
    assert found
    return found


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", SHARDED_OPTIMIZERS)
def test_shared_out_state_gives_the_weights_and_the_files_of_one_process(name: str, size: int) -> None:
    one, several = optimizers_of(name), [optimizers_of(name, rank, size) for rank in range(size)]
    for optimizers in (one, *several):
        optimizers.make_state()
    stepped([one], range(3))
    stepped(several, range(3))
    for optimizers in several:
        assert all(map(torch.equal, weights_of(one), weights_of(optimizers)))
        assert len(optimizers.by_network["unet"].state) < len(SHAPES)
    expected, found = flatten_state(one.by_network["unet"], to_host), gathered(several)
    assert {key: tensor.numpy().tobytes() for key, tensor in expected[0].items()} == {
        key: tensor.numpy().tobytes() for key, tensor in found[0].items()
    }
    assert expected[1] == found[1]


@pytest.mark.parametrize("name", SHARDED_OPTIMIZERS)
def test_a_resume_with_any_number_of_processes_continues_to_the_same_bytes(name: str) -> None:
    one = optimizers_of(name)
    stepped([one], range(3))
    tensors, numbers = flatten_state(one.by_network["unet"], to_host)
    several = [optimizers_of(name, rank, 3) for rank in range(3)]
    for optimizers in several:
        for weight, trained in zip(weights_of(optimizers), weights_of(one), strict=True):
            weight.data.copy_(trained)
        copies = {key: tensor.clone() for key, tensor in tensors.items()}
        restore_state(optimizers.by_network["unet"], copies, numbers, is_here=optimizers.shards.is_here)
        optimizers.make_state()
    stepped([one], range(3, 6))
    stepped(several, range(3, 6))
    for optimizers in several:
        assert all(map(torch.equal, weights_of(one), weights_of(optimizers)))


def test_the_owners_of_parameters_have_about_as_many_numbers_each() -> None:
    parameters = [torch.empty(size) for size in (5, 300, 100, 100, 99, 1, 0)]
    owners = Shards.deal(parameters, 0, 3).owners
    loads = [sum(len(p) for p, owner in owners.items() if owner == rank) for rank in range(3)]
    assert sorted(loads) == [106, 199, 300]
    assert len(owners) == len(parameters)
