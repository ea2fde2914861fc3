"""Updating each parameter inside the backward pass: the same update, in less memory, and never by half unnoticed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ed2.data.loader import Batch
from ed2.errors import UpdateFailedError
from ed2.events import Event, Warned
from ed2.models.base import trained_parts
from ed2.models.compute import Precision
from ed2.models.families.sd import load
from ed2.models.files.folder import open_folder
from ed2.training.loop import optimizer_step
from ed2.training.optimizers import parameters_of
from ed2.training.rounding import Rounding
from ed2.training.state import Run
from ed2.training.update import FusedUpdate, WholeUpdate
from tests.training.memory_faults import OutOfMemoryAt, at_most
from tests.training.steps import CPU, batch_of, optimizers_of, parameters, run_of

IMAGES = batch_of(0, 1, 2, 3)


def low_memory_run(
    folder: Path,
    *,
    fused: bool = True,
    dtype: torch.dtype = torch.float32,
    optimizer: str = "adamw",
    max_norm: float | None = None,
) -> Run:
    """A run whose steps have four images."""
    parts = ["unet", "text_encoder"]
    model = load(open_folder(folder), trained=parts, device=CPU, frozen_dtype=torch.float32, trained_dtype=dtype)
    is_half = dtype is torch.bfloat16
    named = {n: part.parameters().items() for n, part in trained_parts(model).items()}
    names = {parameter: f"{n}/{name}" for n, items in named.items() for name, parameter in items}
    optimizers = optimizers_of(model, optimizer, Rounding(3, names) if is_half else None)
    optimizers.make_state()
    precision = Precision(CPU, dtype if is_half else None)
    run = run_of(model, optimizers, precision, images_per_step=4)
    if not fused:
        return replace(run, update=WholeUpdate(optimizers, precision, max_norm))
    return replace(run, update=FusedUpdate(optimizers, precision, max_norm, lambda: run.state.at_once is not None))


def step(run: Run, batch: Batch = IMAGES) -> None:
    optimizer_step(run, [batch])
    run.state.step += 1
    run.state.position += 1


def equal(run: Run, other: Run) -> bool:
    return all(torch.equal(a, b) for a, b in zip(parameters(run), parameters(other), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "adafactor", "lion8bit"])
def test_without_clipping_fused_steps_give_the_same_bytes_as_whole_ones(
    sd1: Path, optimizer: str, dtype: torch.dtype
) -> None:
    whole, fused = (low_memory_run(sd1, fused=f, dtype=dtype, optimizer=optimizer) for f in (False, True))
    before = parameters(fused)
    for _ in range(3):
        step(whole)
        step(fused)
    assert equal(whole, fused)
    assert not all(torch.equal(a, b) for a, b in zip(before, parameters(fused), strict=True))
    assert float(fused.metrics.grad_norm) == pytest.approx(float(whole.metrics.grad_norm), rel=1e-5)


def test_never_more_than_one_gradient_is_in_memory(sd1: Path) -> None:
    run, most = low_memory_run(sd1), list[int]()
    trained = [p for optimizer in run.optimizers for p in parameters_of(optimizer)]

    def count(_: Tensor) -> None:
        most.append(sum(parameter.grad is not None for parameter in trained))

    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(count)
    step(run)
    assert len(most) > 50 and max(most) == 0  # the hook of the update comes first and has freed the gradient


def test_each_gradient_is_clipped_alone_and_the_norm_is_that_of_all(sd1: Path) -> None:
    loose, tight = low_memory_run(sd1), low_memory_run(sd1, max_norm=1e-9, optimizer="adafactor")
    seen: list[float] = []
    for optimizer in tight.optimizers:
        optimizer.register_step_pre_hook(
            lambda o, *_: seen.extend(float(p.grad.norm()) for p in parameters_of(o) if p.grad is not None)
        )
    step(loose)
    step(tight)
    assert len(seen) > 50 and max(seen) <= 1e-9 * 1.001
    assert float(tight.metrics.grad_norm) == pytest.approx(float(loose.metrics.grad_norm), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_parameter_whose_gradient_is_not_finite_stays_and_the_step_is_bad(sd1: Path, dtype: torch.dtype) -> None:
    run, warned = low_memory_run(sd1, dtype=dtype), list[Event]()
    run.bus.subscribe(warned.append)
    weight = run.model.parts["unet"].module.conv_in.bias
    handle = weight.register_hook(lambda gradient: gradient * float("nan"))
    other = run.model.parts["unet"].module.conv_out.bias
    before, other_before = weight.detach().clone(), other.detach().clone()
    step(run)
    assert torch.equal(weight, before) and not torch.equal(other, other_before)
    assert run.state.bad_steps == 1 and run.metrics.skipped_steps == 1
    assert any(isinstance(e, Warned) and "Step 1 was skipped in part: its gradient" in e.text for e in warned)
    handle.remove()
    step(run)
    assert run.state.bad_steps == 0 and not torch.equal(weight, before)
    assert all(torch.isfinite(parameter).all() for parameter in parameters(run))


def test_a_loss_that_is_not_finite_changes_nothing_and_names_its_image(sd1: Path) -> None:
    run, warned = low_memory_run(sd1), list[Event]()
    run.bus.subscribe(warned.append)
    before = parameters(run)
    scale = torch.ones(4)
    scale[1] = float("inf")
    step(run, replace(IMAGES, loss_scale=scale))
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(run), strict=True))
    assert any(isinstance(e, Warned) and "Step 1 was skipped: the loss of 1.png" in e.text for e in warned)


def allocations(sd1: Path) -> tuple[int, int]:
    """How many operations that allocate a step does before its first update, and in all."""
    run, counter, at = low_memory_run(sd1), OutOfMemoryAt([]), list[int]()
    for optimizer in run.optimizers:
        optimizer.register_step_pre_hook(lambda *_: at.append(counter.count))
    with counter:
        step(run)
    return at[0], counter.count


def test_out_of_memory_in_the_middle_of_a_fused_backward_pass_is_a_failed_update(sd1: Path) -> None:
    first, last = allocations(sd1)
    for place in (first + 30, (first + last) // 2, last - 12):
        run, warned = low_memory_run(sd1), list[Event]()
        run.bus.subscribe(warned.append)
        with OutOfMemoryAt([place]) as faults, pytest.raises(UpdateFailedError) as caught:
            step(run)
        assert faults.was_raised and isinstance(caught.value.__cause__, torch.OutOfMemoryError)
        assert not warned and not run.state.checkpointing


def test_out_of_memory_before_the_first_update_is_retried_with_the_same_bytes(sd1: Path) -> None:
    first, _ = allocations(sd1)
    plain = low_memory_run(sd1, dtype=torch.bfloat16)
    step(plain)
    run = low_memory_run(sd1, dtype=torch.bfloat16)
    with OutOfMemoryAt([first // 2]) as faults:
        step(run)
    assert faults.was_raised and run.state.checkpointing
    assert equal(run, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_parts_of_a_batch_that_was_cut_add_up_to_the_same_update(sd1: Path, dtype: torch.dtype) -> None:
    whole, fused = (low_memory_run(sd1, fused=f, dtype=dtype) for f in (False, True))
    for run in (whole, fused):
        at_most(run.model.denoiser, 2)
        step(run)
        step(run)
        assert run.state.at_once == 2
    assert equal(whole, fused)


def test_a_parameter_without_a_gradient_keeps_no_state(sd1: Path) -> None:
    run = low_memory_run(sd1)
    run.model.clip_skip = 2  # leaves the last layer of the text encoder out
    step(run)
    optimizer = run.optimizers.by_network["text_encoder"]
    assert 0 < len(optimizer.state) < len(parameters_of(optimizer))
