"""The loop of training, in the order in which things happen."""

from collections.abc import Sequence

from ed2.data.loader import Batch
from ed2.errors import TrainingError
from ed2.events import PhaseChanged, StepDone, Warned
from ed2.training.state import Run

MAX_BAD_STEPS = 3
"""Steps in a row with numbers that are not finite, after which a run gives up."""
SMALLEST_SCALE = 1.0
"""While the fp16 scaler is above this, an overflow is its way to find its scale and no fault."""


def train(run: Run) -> None:
    """Train from `run.state` to the last epoch.

    Raises:
        StopRequested: at the end of the step in which a stop was asked for.
        TrainingError: the numbers are not finite and stay so.
    """
    while not run.finished:
        if not run.steps_in(run.state.epoch):  # all multipliers are small fractions, and none of them is met
            run.state.epoch += 1
            continue
        for batches in run.data.groups(run.state.epoch, run.state.position):
            optimizer_step(run, batches)
            run.state.count(batches, run.steps_in(run.state.epoch))
            run.bus.emit(StepDone(run.state.step, run.state.epoch, sum(len(b.captions) for b in batches)))
            for job in run.jobs:
                if job.due(run.state):
                    run.bus.emit(job.run(run.state))
            obey(run)


def obey(run: Run) -> None:
    """Do between two steps what people have asked for: stop, wait, save, sample. Nothing here draws or trains.

    Raises:
        StopRequested: a stop was asked for.
    """
    controls = run.controls
    was_paused = False
    while True:
        controls.obey_stop()
        for request in controls.take():
            run.bus.emit(run.on_request[request].run(run.state))
            controls.obey_stop()
        if not controls.pausing:
            break
        was_paused = True
        run.bus.emit(PhaseChanged(run.state.step, "paused"))
        controls.wait()
    if was_paused:
        run.metrics.restart_clocks()
        run.bus.emit(PhaseChanged(run.state.step, "training"))


def optimizer_step(run: Run, batches: Sequence[Batch]) -> None:
    """Backpropagate the loss of `batches` and update the weights once.

    Every picture weighs 1 / images_per_step, also where a batch is short, so that all pictures count alike.
    """
    run.optimizers.set_lr(run.schedule(run.progress))
    for batch in batches:
        with run.precision.autocast():
            losses = run.objective(batch)  # (B,)
        run.precision.backward(losses.sum() / run.images_per_step)
        run.metrics.add(losses.detach())  # stays on the device: nothing is read here
    if not batches:  # every picture of this step has become unreadable, and was told
        return
    run.metrics.grad_norm = run.precision.clip(run.optimizers, run.max_grad_norm)
    if run.precision.step(run.optimizers, run.metrics.grad_norm):
        run.state.bad_steps = 0
    else:
        bad_step(run, batches)
    run.optimizers.zero_grad()


def bad_step(run: Run, batches: Sequence[Batch]) -> None:
    """Tell of a step whose gradients are not finite and which was left out.

    Raises:
        TrainingError: it was the third in a row.
    """
    run.metrics.skipped_steps += 1
    if run.precision.scaler.is_enabled() and run.precision.scale > SMALLEST_SCALE:
        return
    run.state.bad_steps += 1
    names = ", ".join(name for batch in batches for name in batch.names)
    step = run.state.step + 1
    run.bus.emit(Warned(step, f"Step {step} was left out: its numbers are not finite. Its pictures: {names}."))
    if run.state.bad_steps >= MAX_BAD_STEPS:
        raise TrainingError(
            f"{MAX_BAD_STEPS} steps in a row gave numbers that are not finite",
            "the model has diverged",
            "Continue from an earlier checkpoint with a learning rate half as large.",
        )
