"""One optimizer step: averaging, clipping, numbers that are not finite, and precision."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ed2.data.loader import Batch, VisitKey
from ed2.errors import TrainingError
from ed2.events import Event, EventBus, Warned
from ed2.models.files import open_folder
from ed2.models.memory import Precision, choose_device, choose_dtype
from ed2.models.sd import load
from ed2.training.loop import optimizer_step
from ed2.training.losses import mse
from ed2.training.metrics import Mean, Metrics
from ed2.training.objective import Objective
from ed2.training.optimizers import OptimizerOptions, Optimizers, adamw
from ed2.training.schedules import cosine
from ed2.training.state import Controls, Run, TrainState

CPU = torch.device("cpu")


def batch_of(*numbers: int) -> Batch:
    pixels = torch.from_numpy(
        np.stack([np.random.default_rng(n).uniform(-1, 1, (3, 32, 32)).astype(np.float32) for n in numbers])
    )
    visits = tuple(VisitKey(0, f"0/{n}.png", 0) for n in numbers)
    names = tuple(f"{n}.png" for n in numbers)
    return Batch(pixels, tuple(f"number {n}" for n in numbers), torch.ones(len(numbers)), visits, names, (32, 32))


def optimizers_of(networks: Mapping[str, nn.Module]) -> Optimizers:
    lrs = {"unet": 1e-3, "text_encoder": 5e-4}
    by_network = {name: adamw(m.parameters(), OptimizerOptions(lrs[name])) for name, m in networks.items()}
    return Optimizers(by_network, lrs)


def run_on(folder: Path, *, images_per_step: int, dtype: torch.dtype | None = None) -> Run:
    model = load(open_folder(folder), trained=["unet", "text_encoder"], device=CPU, frozen_dtype=torch.float32)
    return Run(
        model=model,
        data=None,  # type: ignore[arg-type]
        objective=Objective(model, mse, 1, CPU),
        precision=Precision(CPU, dtype),
        optimizers=optimizers_of(model.trained),
        metrics=Metrics(),
        bus=EventBus(),
        jobs=[],
        controls=Controls(),
        state=TrainState(),
        max_epochs=4,
        steps_in=lambda epoch: 5,
        images_per_step=images_per_step,
        max_grad_norm=None,
    )


def gradients(run: Run, batches: list[Batch]) -> dict[str, Tensor]:
    """The gradients that a step would use."""
    for batch in batches:
        run.precision.backward(run.objective(batch).sum() / run.images_per_step)
    return {
        f"{network}/{name}": p.grad.clone()
        for network, module in run.model.trained.items()
        for name, p in module.named_parameters()
        if p.grad is not None
    }


def parameters(run: Run) -> list[Tensor]:
    return [p.detach().clone() for module in run.model.trained.values() for p in module.parameters()]


def test_gradients_of_accumulated_batches_equal_those_of_the_big_batch(sd1: Path) -> None:
    together = gradients(run_on(sd1, images_per_step=4), [batch_of(0, 1, 2, 3)])
    apart = gradients(run_on(sd1, images_per_step=4), [batch_of(0, 1), batch_of(2), batch_of(3)])
    worst = max(float((apart[n] - g).norm() / g.norm()) for n, g in together.items() if g.norm() > 1e-6)
    assert worst < 1e-5


def test_every_picture_weighs_alike_also_in_a_short_batch(sd1: Path) -> None:
    full = gradients(run_on(sd1, images_per_step=2), [batch_of(0, 1)])
    first = gradients(run_on(sd1, images_per_step=2), [batch_of(0)])
    second = gradients(run_on(sd1, images_per_step=2), [batch_of(1)])
    assert all(torch.allclose(first[n] + second[n], g, rtol=1e-3, atol=1e-7) for n, g in full.items())


def test_clipping_shortens_the_gradient_of_both_networks_together(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=1)
    before = gradients(run, [batch_of(0)])
    length = float(torch.stack([g.norm() for g in before.values()]).norm())
    told = float(run.precision.clip(run.optimizers, length / 10))
    after = [p.grad for module in run.model.trained.values() for p in module.parameters() if p.grad is not None]
    assert told == pytest.approx(length, rel=1e-4)
    assert float(torch.stack([g.norm() for g in after]).norm()) == pytest.approx(length / 10, rel=1e-3)


class Poisoned:
    """An objective whose loss is not a number for the pictures named."""

    def __init__(self, objective: Objective, names: set[str]) -> None:
        self._objective, self._names, self.device = objective, names, objective.device

    def __call__(self, batch: Batch) -> Tensor:
        losses = self._objective(batch)
        return losses * (float("nan") if self._names & set(batch.names) else 1.0)


def test_a_step_that_is_not_finite_changes_no_weight_and_names_its_pictures(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=2)
    run.objective = Poisoned(run.objective, {"1.png"})  # type: ignore[assignment]
    events: list[Event] = []
    run.bus.subscribe(events.append)
    before = parameters(run)
    optimizer_step(run, [batch_of(0, 1)])
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(run), strict=True))
    assert [e.text for e in events if isinstance(e, Warned)] == [
        "Step 1 was left out: its numbers are not finite. Its pictures: 0.png, 1.png."
    ]
    optimizer_step(run, [batch_of(2, 3)])
    assert run.state.bad_steps == 0
    assert not all(torch.equal(a, b) for a, b in zip(before, parameters(run), strict=True))


def test_three_bad_steps_in_a_row_end_the_run_with_advice(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=1)
    run.objective = Poisoned(run.objective, {"0.png"})  # type: ignore[assignment]
    for _ in range(2):
        optimizer_step(run, [batch_of(0)])
    with pytest.raises(TrainingError, match="learning rate half as large"):
        optimizer_step(run, [batch_of(0)])


def test_under_fp16_an_overflow_lowers_the_scale_and_is_no_bad_step(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=1, dtype=torch.float16)
    run.objective = Poisoned(run.objective, {"0.png"})  # type: ignore[assignment]
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
        for network, module in run.model.trained.items()
        for name, p in module.named_parameters()
        if p.grad is not None
    }
    one, other = (torch.cat([grads[n].flatten() for n in exact]) for grads in (exact, mixed))
    assert float((one - other).norm() / one.norm()) < 0.05
    assert all(p.dtype == torch.float32 for p in parameters(run))


def test_a_step_whose_pictures_are_all_gone_changes_nothing(sd1: Path) -> None:
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


def test_a_mean_reads_the_same_after_it_went_through_json() -> None:
    straight, resumed = Mean(), Mean()
    for value in (0.1, 0.2, 0.7):
        straight.add(torch.tensor([value]))
        resumed.add(torch.tensor([value]))
        again = Mean()
        again.restore(resumed.state())
        resumed = again
    assert straight.take() == resumed.take()


def test_auto_is_the_cpu_without_a_card_and_mixed_precision_is_off_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a card")
    assert choose_device("auto") == CPU
    assert choose_dtype(CPU, amp=True, amp_dtype="fp16") is None
    with pytest.raises(ValueError, match="cuda:3 is not there: PyTorch sees 0 cards"):
        choose_device("cuda:3")


@pytest.mark.gpu
def test_a_card_trains_in_mixed_precision(sd1: Path) -> None:
    device = torch.device("cuda:0")
    model = load(open_folder(sd1), trained=["unet", "text_encoder"], device=device, frozen_dtype=torch.bfloat16)
    run = replace(
        run_on(sd1, images_per_step=2),
        model=model,
        objective=Objective(model, mse, 1, device),
        precision=Precision(device, torch.bfloat16),
        optimizers=optimizers_of(model.trained),
    )
    before = parameters(run)
    optimizer_step(run, [batch_of(0, 1)])
    assert not all(torch.equal(a, b) for a, b in zip(before, parameters(run), strict=True))
