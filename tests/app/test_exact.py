"""The switch `deterministic`: what it sets, that it is undone, and that a card then repeats itself."""

import pytest
import torch

from ed2.models.compute import deterministic
from tests.runs import Values, differing, train


def state() -> tuple[bool, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.cudnn_sdp_enabled(),
    )


def test_determinism_on_a_gpu_lasts_for_its_block_and_changes_nothing_else() -> None:
    before = state()
    for device, is_wanted in (("cuda", False), ("cpu", True)):
        with deterministic(torch.device(device), is_wanted=is_wanted):
            assert state() == before
    with pytest.raises(KeyError), deterministic(torch.device("cuda"), is_wanted=True):
        assert state() == (True, True, False, False, False)
        raise KeyError
    assert state() == before


@pytest.mark.gpu
@pytest.mark.parametrize("extra", [{}, {"amp": False}, {"optimizer": "adamw", "gradient_checkpointing": True}])
def test_a_deterministic_run_on_a_gpu_repeats_and_resumes_to_the_same_bytes(values: Values, extra: Values) -> None:
    values = {**values, **extra, "deterministic": True, "device": "cuda:0"}
    once, again, stopped = train(values), train(values), train(values, stop_at=3)
    resumed = train({"resume_ckpt": str(stopped.checkpoint), "logdir": str(values["logdir"])})
    assert not differing(once.checkpoint, again.checkpoint)
    assert not differing(once.checkpoint, resumed.checkpoint)
