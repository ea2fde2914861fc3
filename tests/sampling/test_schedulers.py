import pytest
import torch

from ed2.models.families.sd import StableDiffusion
from ed2.registry import SAMPLERS
from ed2.sampling.prompt import Prompt
from ed2.sampling.sampler import SampleOptions, draw_samples


def tiles(model: StableDiffusion, prompts: list[Prompt], batch_size: int) -> list[bytes]:
    options = SampleOptions(num_steps=2, batch_size=batch_size)
    return [drawn.tiles[0].tobytes() for drawn in draw_samples(model, prompts, options)]


@pytest.mark.parametrize(
    ("name", "model_name"), [*((name, "epsilon_model") for name in SAMPLERS), ("dpm++_2m_k", "velocity_model")]
)
def test_every_sampler_draws_the_same_again_and_moves_no_global_generator(
    name: str, model_name: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(model_name)
    prompts = [Prompt(n, f"a cat {n}", 7, (16, 16), cfgs=(4.0,), sampler=name) for n in range(2)]
    before = torch.get_rng_state()
    first = tiles(model, prompts, 2)
    assert first == tiles(model, prompts, 2)
    assert len(set(first)) == 2 and all(len(set(tile)) > 8 for tile in first)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["ddpm", "euler_a", "dpm++_2m_sde"])
def test_noise_added_during_sampling_does_not_depend_on_the_batch(epsilon_model: StableDiffusion, name: str) -> None:
    prompts = [Prompt(n, "a cat", 7, (16, 16), cfgs=(1.0,), sampler=name) for n in range(2)]
    together, alone = (tiles(epsilon_model, prompts, size) for size in (2, 1))
    for one, other in zip(together, alone, strict=True):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 1


def test_prompts_of_different_samplers_are_drawn_in_their_order(epsilon_model: StableDiffusion) -> None:
    prompts = [Prompt(n, "a cat", 7, (16, 16), cfgs=(1.0,), sampler=s) for n, s in enumerate(["euler", None, "pndm"])]
    drawn = draw_samples(epsilon_model, prompts, SampleOptions(num_steps=2, batch_size=4))
    assert [d.prompt.index for d in drawn] == [0, 1, 2]
