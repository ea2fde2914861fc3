"""How a GPU computes: what the settings set, that it is undone, and that `deterministic` makes a GPU repeat itself."""

from dataclasses import replace

import pytest
import torch

from ed2.app.run_spec import Machine
from ed2.models.compute import computing
from ed2.settings.schema import Settings
from tests.runs import Values, differing, train


def state() -> tuple[bool, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.cudnn_sdp_enabled(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )


def test_determinism_on_a_gpu_lasts_for_its_block_and_changes_nothing_else() -> None:
    before = state()
    with computing(torch.device("cpu"), exact=True, tf32=True, benchmark=True):
        assert state() == before
    with pytest.raises(KeyError), computing(torch.device("cuda"), exact=True, tf32=False, benchmark=True):
        assert state() == (True, True, False, False, False, False, False)
        raise KeyError
    assert state() == before


@pytest.mark.parametrize(("tf32", "benchmark"), [(True, False), (False, True)])
def test_tf32_and_the_choice_of_algorithms_last_for_their_block(tf32: bool, benchmark: bool) -> None:
    before = state()
    with computing(torch.device("cuda"), exact=False, tf32=tf32, benchmark=benchmark):
        assert state() == (*before[:2], benchmark, *before[3:5], tf32, tf32)
    assert state() == before


def test_what_is_chosen_about_tf32_and_algorithms_is_said_with_the_reason() -> None:
    card = Machine(torch.device("cuda:0"), None, has_tf32=True)
    plain = Settings().replaced(amp=False)
    assert not plain.memory.uses_tf32 and Settings().memory.uses_tf32
    assert "TF32 is off, since mixed precision (amp) is" in " ".join(card.notes(plain.memory))
    assert card.notes(plain.replaced(tf32="off").memory) == card.notes(plain.replaced(tf32="on").memory) == []
    assert replace(card, has_tf32=False).notes(plain.memory) == []
    (note,) = replace(card, dtype=torch.bfloat16).notes(Settings().replaced(cudnn_benchmark=True).memory)
    assert "not the same byte for byte" in note
    assert card.notes(plain.replaced(tf32="on", cudnn_benchmark=True, deterministic=True).memory) == []


@pytest.mark.gpu
def test_the_gpu_that_trains_is_the_current_one() -> None:
    last = torch.cuda.device_count() - 1
    with computing(torch.device("cuda", last), exact=False, tf32=True, benchmark=False):
        assert torch.cuda.current_device() == last
    assert torch.cuda.current_device() == 0


@pytest.mark.gpu
def test_tf32_rounds_products_on_a_gpu_that_has_it() -> None:
    card = torch.device("cuda:0")
    if torch.cuda.get_device_capability(card) < (8, 0):
        pytest.skip("this GPU has no TF32")
    numbers = torch.rand(512, 512, generator=torch.Generator().manual_seed(1)).to(card)

    def product(*, tf32: bool) -> torch.Tensor:
        with computing(card, exact=False, tf32=tf32, benchmark=False):
            return numbers @ numbers

    exact = numbers.double() @ numbers.double()
    assert (product(tf32=True) - exact).norm() > 10 * (product(tf32=False) - exact).norm()


@pytest.mark.gpu
@pytest.mark.parametrize("extra", [{}, {"amp": False}, {"optimizer": "adamw", "gradient_checkpointing": True}])
def test_a_deterministic_run_on_a_gpu_repeats_and_resumes_to_the_same_bytes(values: Values, extra: Values) -> None:
    values = {**values, **extra, "deterministic": True, "device": "cuda:0"}
    once, again, stopped = train(values), train(values), train(values, stop_at=3)
    resumed = train({"resume_ckpt": str(stopped.checkpoint), "logdir": str(values["logdir"])})
    assert not differing(once.checkpoint, again.checkpoint)
    assert not differing(once.checkpoint, resumed.checkpoint)
