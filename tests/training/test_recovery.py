"""Running out of memory in the middle of a step: nothing is lost, and nothing is done twice or by half."""

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ed2.data.loader import Batch
from ed2.errors import MemoryFullError, UnusableWeightsError, UpdateFailedError
from ed2.events import Event, Warned
from ed2.models.compute import Precision
from ed2.models.families.sd import load
from ed2.models.memory import is_out_of_memory, uses_checkpointing
from ed2.training.ema import NoEma
from ed2.training.loop import optimizer_step
from ed2.training.objective import Objective, mse
from ed2.training.recovery import require_savable, restore_oom_limits
from ed2.training.state import Run
from ed2.training.update import WholeUpdate
from tests.training.memory_faults import TEXT, OutOfMemoryAt, at_most
from tests.training.steps import batch_of, optimizers_of, parameters, run_on

TOLERANCE = 1e-5
"""Relative, in the L2 norm: the order of sums is another where a batch is cut."""
BATCHES = [batch_of(0, 1, 2), batch_of(3)]


def step(run: Run, batches: Sequence[Batch] = BATCHES) -> dict[str, Tensor]:
    """Do a step, by default over four images in two batches, and return the gradient that its update used."""
    used: dict[str, Tensor] = {}

    def keep(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        for network, part in run.model.parts.items():
            named = part.parameters().items()
            with _disable_current_modes():
                used.update({f"{network}/{n}": p.grad.clone() for n, p in named if p.grad is not None})

    hooks = [optimizer.register_step_pre_hook(keep) for optimizer in run.optimizers]
    try:
        optimizer_step(run, batches)
    finally:
        for hook in hooks:
            hook.remove()
    run.state.step += 1
    return used


def counted(run: Run) -> int:
    """How many operations that allocate a step does before its update."""
    counter, at = OutOfMemoryAt([]), list[int]()
    hook = next(iter(run.optimizers)).register_step_pre_hook(lambda *anything: at.append(counter.count))
    with counter:
        step(run)
    hook.remove()
    return at[0]


def distance(used: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    assert used.keys() == wanted.keys()
    mine, other = (torch.cat([grads[name].flatten() for name in wanted]) for grads in (used, wanted))
    return float((mine - other).norm() / other.norm())


@pytest.fixture(scope="module")
def undisturbed(sd1: Path) -> tuple[list[dict[str, Tensor]], float]:
    """The gradients of two steps, and the sum of their losses."""
    run = run_on(sd1, images_per_step=4)
    return [step(run), step(run)], float(run.metrics.epoch.total or 0)


@pytest.mark.parametrize("steps_before", [0, 1], ids=["first step", "second step"])
def test_wherever_a_step_runs_out_of_memory_its_gradient_and_losses_are_the_same(
    sd1: Path, undisturbed: tuple[list[dict[str, Tensor]], float], steps_before: int
) -> None:
    update_at = counted(run_on(sd1, images_per_step=4))
    places = [update_at * part // 3 for part in range(3)]  # in the passes forward and back of both batches
    places += [update_at - 12]  # in clipping
    for place in places:
        run = run_on(sd1, images_per_step=4)
        used = [step(run) for _ in range(steps_before)]
        with OutOfMemoryAt([place]) as faults:
            used.append(step(run))
        assert faults.was_raised
        used += [step(run) for _ in range(1 - steps_before)]
        assert all(distance(a, b) < TOLERANCE for a, b in zip(used, undisturbed[0], strict=True)), place
        assert float(run.metrics.epoch.total or 0) == pytest.approx(undisturbed[1], rel=1e-5)
        assert run.metrics.epoch.count == 8


def test_checkpointing_comes_first_then_half_the_images_and_both_stay(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=4)
    told: list[Event] = []
    run.bus.subscribe(told.append)
    hook = at_most(run.model.denoiser, 1)
    step(run)
    assert (run.state.checkpointing, run.state.at_once, run.state.is_exact) == (True, 1, False)
    texts = [event.text for event in told if isinstance(event, Warned)]
    assert ["checkpointing" in texts[0], "2 images" in texts[1], "1 image at" in texts[2]] == [True] * 3
    told.clear()
    step(run)
    assert not told
    hook.remove()

    resumed = run_on(sd1, images_per_step=4)
    resumed.state = run.state
    assert len(restore_oom_limits(resumed, same_settings=True)) == 3
    assert uses_checkpointing(resumed.model)
    assert len(restore_oom_limits(resumed, same_settings=False)) == 1
    assert resumed.state.at_once is None


def test_a_single_image_that_does_not_fit_ends_the_run_with_nothing_changed(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=4)
    before = parameters(run)
    at_most(run.model.denoiser, 0)
    with pytest.raises(MemoryFullError, match="even with one image at a time"):
        step(run)
    assert run.metrics.epoch.count == 0
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(run), strict=True))
    assert all(p.grad is None for p in run.model.denoiser.parameters())


@pytest.mark.parametrize("network", [0, 1], ids=["first network", "second network"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError(TEXT), ZeroDivisionError("a fault")], ids=["oom", "other"])
def test_an_error_inside_an_optimizer_is_a_failed_update_and_not_retried(
    sd1: Path, network: int, error: Exception
) -> None:
    run = run_on(sd1, images_per_step=1)
    told: list[Event] = []
    run.bus.subscribe(told.append)

    def fail(*anything: object) -> None:
        raise error

    list(run.optimizers)[network].register_step_pre_hook(fail)
    with pytest.raises(UpdateFailedError) as caught:
        step(run, [batch_of(0)])
    assert caught.value.__cause__ is error
    assert not told


def test_an_average_that_fails_after_the_weights_changed_is_a_failed_update(sd1: Path) -> None:
    class Failing(NoEma):
        def update(self, step: int) -> None:
            raise MemoryError

    run = run_on(sd1, images_per_step=1)
    run.ema = Failing()
    with pytest.raises(UpdateFailedError):
        step(run, [batch_of(0)])


def test_state_that_does_not_fit_in_memory_is_an_error_before_the_first_step(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=1)
    optimizers = optimizers_of(run.model)
    with OutOfMemoryAt([400]), pytest.raises(MemoryFullError, match="optimizer state of the unet"):
        optimizers.make_state()


def test_under_fp16_a_step_with_unscaled_gradients_is_retried_at_its_scale(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=4, dtype=torch.float16)
    update_at = counted(run)
    again = run_on(sd1, images_per_step=4, dtype=torch.float16)
    with OutOfMemoryAt([update_at - 12]) as faults:  # in clipping
        step(again)
    assert faults.was_raised
    assert again.precision.scale == run.precision.scale
    assert float(again.metrics.grad_norm) == pytest.approx(float(run.metrics.grad_norm), rel=1e-5)


def test_a_failed_attempt_leaks_no_memory(sd1: Path) -> None:
    def alive() -> int:
        gc.collect()
        return sum(o.numel() for o in gc.get_objects() if type(o) in (Tensor, torch.nn.Parameter))

    run = run_on(sd1, images_per_step=4)
    step(run)
    step(run)
    before = alive()
    for at in (300, 1500):
        with OutOfMemoryAt([at]):
            step(run)
    run.optimizers.zero_grad()
    assert alive() - before < 1000


@pytest.mark.parametrize(
    ("error", "is_oom"),
    [
        (torch.OutOfMemoryError(TEXT), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9."),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_recognised_by_its_message(error: Exception, is_oom: bool) -> None:
    assert is_out_of_memory(error) == is_oom


def test_weights_are_worth_saving_where_only_their_sum_overflows(sd1: Path) -> None:
    run = run_on(sd1, images_per_step=4)
    weight = next(iter(run.model.denoiser.parameters())).data
    weight.fill_(torch.finfo(torch.float32).max)
    require_savable(run)
    for bad in (torch.inf, -torch.inf, torch.nan):
        weight.flatten()[-1] = bad
        with pytest.raises(UnusableWeightsError, match="not finite"):
            require_savable(run)


def test_out_of_memory_is_recognised_on_the_cpu() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.gpu
def test_a_smaller_gpu_gets_the_same_gradient_in_parts(sd1: Path) -> None:
    device = torch.device("cuda:0")
    batches = [batch_of(*range(64))]

    def fresh() -> Run:
        run = run_on(sd1, images_per_step=64)
        model = load(run.model.source, trained=["unet", "text_encoder"], device=device, frozen_dtype=torch.float32)
        objective = Objective(model, mse, 1, device)
        precision, optimizers = Precision(device, None), optimizers_of(model)
        update = WholeUpdate(optimizers, precision, None)
        run = replace(run, model=model, objective=objective)
        return replace(run, precision=precision, optimizers=optimizers, update=update)

    def reserved(batches: list[Batch]) -> tuple[dict[str, Tensor], int]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return step(fresh(), batches), torch.cuda.max_memory_reserved(device)

    wanted, most = reserved(batches)
    _, least = reserved([batch_of(0)])
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((most + least) / 2 / total, device)
    try:
        run = fresh()
        used = step(run, batches)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert run.state.checkpointing
    assert distance(used, wanted) < 1e-3  # a card adds up in another order
