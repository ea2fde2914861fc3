"""One optimizer step: averaging, clipping, numbers that are not finite, and precision."""

import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ed2.data.loader import Batch
from ed2.errors import DivergedError
from ed2.events import Event, Warned
from ed2.models.compute import Precision, choose_device, choose_dtype
from ed2.models.families.sd import load
from ed2.models.files.folder import open_folder
from ed2.training.loop import optimizer_step
from ed2.training.metrics import Mean
from ed2.training.objective import Objective, mse
from ed2.training.schedules import cosine
from ed2.training.state import Run, TrainState
from ed2.training.update import WholeUpdate
from tests.training.steps import CPU, batch_of, gradients, optimizers_of, parameters, run_on


def test_gradients_of_accumulated_batches_equal_those_of_the_big_batch(sd1: Path) -> None:
    together = gradients(run_on(sd1, images_per_step=4), [batch_of(0, 1, 2, 3)])
    apart = gradients(run_on(sd1, images_per_step=4), [batch_of(0, 1), batch_of(2), batch_of(3)])
    worst = max(float((apart[n] - g).norm() / g.norm()) for n, g in together.items() if g.norm() > 1e-6)
    assert worst < 1e-5


def test_every_image_has_the_same_weight_even_in_a_short_batch(sd1: Path) -> None:
    full = gradients(run_on(sd1, images_per_step=2), [batch_of(0, 1)])
    first = gradients(run_on(sd1, images_per_step=2), [batch_of(0)])
    second = gradients(run_on(sd1, images_per_step=2), [batch_of(1)])
    assert all(torch.allclose(first[n] + second[n], g, rtol=1e-3, atol=1e-7) for n, g in full.items())


def test_clipping_shortens_the_gradient_of_both_networks_together(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=1)
    before = gradients(run, [batch_of(0)])
    length = float(torch.stack([g.norm() for g in before.values()]).norm())
    told = float(run.precision.clip(run.optimizers, length / 10))
    after = [p.grad for part in run.model.parts.values() for p in part.parameters().values() if p.grad is not None]
    assert told == pytest.approx(length, rel=1e-4)
    assert float(torch.stack([g.norm() for g in after]).norm()) == pytest.approx(length / 10, rel=1e-3)


class Poisoned:
    """An objective whose loss is not a number for the images named."""

    def __init__(self, objective: Objective, names: set[str]) -> None:
        self._objective, self._names, self.device = objective, names, objective.device

    def __call__(self, batch: Batch) -> Tensor:
        losses = self._objective(batch)
        return losses * torch.tensor([float("nan") if name in self._names else 1.0 for name in batch.names])


def test_a_step_that_is_not_finite_changes_no_weight_and_names_its_images(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=2)
    run.objective = Poisoned(run.objective, {"1.png"})  # type: ignore[assignment]
    events: list[Event] = []
    run.bus.subscribe(events.append)
    before = parameters(run)
    optimizer_step(run, [batch_of(0, 1)])
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(run), strict=True))
    assert [e.text for e in events if isinstance(e, Warned)] == ["Step 1 was skipped: the loss of 1.png is not finite."]
    optimizer_step(run, [batch_of(2, 3)])
    assert run.state.bad_steps == 0
    assert math.isfinite(run.metrics.window.take())
    assert run.metrics.epoch.count == 2
    assert not all(torch.equal(a, b) for a, b in zip(before, parameters(run), strict=True))


class Exploding(Poisoned):
    """An objective whose loss is finite and whose gradient is not, for the images named."""

    def __call__(self, batch: Batch) -> Tensor:
        losses = self._objective(batch)
        return losses * torch.tensor([1e36 if name in self._names else 1.0 for name in batch.names])


def test_a_gradient_that_is_not_finite_names_all_images_of_the_step_and_keeps_their_loss(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=2)
    run.objective = Exploding(run.objective, {"1.png"})  # type: ignore[assignment]
    events: list[Event] = []
    run.bus.subscribe(events.append)
    optimizer_step(run, [batch_of(0, 1)])
    texts = [e.text for e in events if isinstance(e, Warned)]
    assert texts == ["Step 1 was skipped: its gradient is not finite. Its images: 0.png, 1.png."]
    assert run.metrics.window.count == 2


def test_three_bad_steps_in_a_row_end_the_run(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=1)
    run.objective = Poisoned(run.objective, {"0.png"})  # type: ignore[assignment]
    for _ in range(2):
        optimizer_step(run, [batch_of(0)])
    with pytest.raises(DivergedError, match="3 steps in a row"):
        optimizer_step(run, [batch_of(0)])


def test_under_fp16_an_overflow_lowers_the_scale_and_is_not_a_bad_step(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=1, dtype=torch.float16)
    run.objective = Exploding(run.objective, {"0.png"})  # type: ignore[assignment]
    scale = run.precision.scale
    before = parameters(run)
    optimizer_step(run, [batch_of(0)])
    assert (run.precision.scale, run.state.bad_steps, run.metrics.skipped_steps) == (scale / 2, 0, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(run), strict=True))
    optimizer_step(run, [batch_of(1)])
    assert not all(torch.equal(a, b) for a, b in zip(before, parameters(run), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_mixed_precision_computes_nearly_the_same_gradients_and_keeps_fp32_weights(
    sd1: Path, dtype: torch.dtype
) -> None:
    exact = gradients(run_on(sd1, images_per_step=2), [batch_of(0, 1)])
    run = run_on(sd1, images_per_step=2, dtype=dtype)
    with run.precision.autocast():
        losses = run.objective(batch_of(0, 1))
    run.precision.backward(losses.sum() / run.images_per_step)
    run.precision.clip(run.optimizers, None)
    mixed = {
        f"{network}/{name}": p.grad
        for network, part in run.model.parts.items()
        for name, p in part.parameters().items()
        if p.grad is not None
    }
    one, other = (torch.cat([grads[n].flatten() for n in exact]) for grads in (exact, mixed))
    assert float((one - other).norm() / one.norm()) < 0.05
    assert all(p.dtype == torch.float32 for p in parameters(run))


def test_a_step_whose_images_are_all_gone_changes_nothing(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=1)
    before = parameters(run)
    optimizer_step(run, [])
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(run), strict=True))


def test_the_state_counts_steps_and_turns_the_epoch_at_its_last_step() -> None:
    state = TrainState()
    seen = []
    for _ in range(6):
        state.count([batch_of(0, 1)], steps_in_epoch=3)
        seen.append((state.step, state.epoch, state.position, state.epoch_ended))
    assert seen == [
        (1, 0, 1, False),
        (2, 0, 2, False),
        (3, 1, 0, True),
        (4, 1, 1, False),
        (5, 1, 2, False),
        (6, 2, 0, True),
    ]
    assert state.images_seen == 12
    assert TrainState.from_dict(state.as_dict()) == state


def test_cosine_falls_from_one_to_zero_at_the_end_of_training_and_stays() -> None:
    assert [round(cosine(x), 4) for x in (0, 0.25, 0.5, 0.75, 1, 1.5)] == [1, 0.8536, 0.5, 0.1464, 0, 0]


def test_a_mean_survives_a_round_trip_through_json() -> None:
    straight, resumed = Mean(), Mean()
    for value in (0.1, 0.2, 0.7):
        straight.add(torch.tensor([value]))
        resumed.add(torch.tensor([value]))
        again = Mean()
        again.restore(resumed.state())
        resumed = again
    assert straight.take() == resumed.take()


def test_without_a_gpu_auto_is_the_cpu_with_mixed_precision_off() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a card")
    assert choose_device("auto") == CPU
    assert choose_dtype(CPU, amp=True, amp_dtype="fp16") is None
    with pytest.raises(ValueError, match="cuda:3 does not exist: PyTorch sees 0 GPUs"):
        choose_device("cuda:3")


def on_card(sd1: Path, trained: list[str]) -> Run:
    device = torch.device("cuda:0")
    model = load(open_folder(sd1), trained=trained, device=device, frozen_dtype=torch.bfloat16)
    precision, optimizers = Precision(device, torch.bfloat16), optimizers_of(model)
    return replace(
        run_on(sd1, images_per_step=2),
        model=model,
        objective=Objective(model, mse, 1, device),
        precision=precision,
        optimizers=optimizers,
        update=WholeUpdate(optimizers, precision, 1.0),
    )


@pytest.mark.gpu
def test_a_gpu_trains_in_mixed_precision(sd1: Path) -> None:
    run = on_card(sd1, ["unet", "text_encoder"])
    before = parameters(run)
    optimizer_step(run, [batch_of(0, 1)])
    assert not all(torch.equal(a, b) for a, b in zip(before, parameters(run), strict=True))


@pytest.mark.gpu
def test_the_cpu_waits_for_a_gpu_once_a_step(sd1: Path) -> None:
    run = on_card(sd1, ["unet"])
    optimizer_step(run, [batch_of(0, 1), batch_of(2)])  # encodes the captions, and makes the optimizer's state
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            optimizer_step(run, [batch_of(0, 1), batch_of(2)])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len([warning for warning in told if "synchronizing" in str(warning.message)]) == 1
