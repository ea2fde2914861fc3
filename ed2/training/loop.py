"""The loop of training, in the order in which things happen."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ed2.data.loader import Batch
from ed2.events import PhaseChanged, StepDone
from ed2.training.bad_numbers import bad_step
from ed2.training.recovery import within_memory
from ed2.training.state import Run
from ed2.training.update import update_weights


def train(run: Run) -> None:
    """Train from `run.state` to the last epoch.

    Raises:
        StopRequested: at the end of the step in which a stop was asked for.
        TrainingError: the numbers are not finite and stay so, the memory does not suffice for one image, or there is
            none left to read.
    """
    while not run.finished:
        if not run.steps_in(run.state.epoch):  # all multipliers are small fractions, and none of them is met
            run.state.epoch += 1
            continue
        for batches in run.data.groups(run.state.epoch, run.state.position):
            run.data.require_readable()  # where a drive is gone this step is not to count
            epoch = run.state.epoch  # of this step: counting its last one turns the epoch
            optimizer_step(run, batches)
            run.state.count(batches, run.steps_in(run.state.epoch))
            run.is_whole = True
            run.bus.emit(StepDone(run.state.step, epoch, sum(len(b.captions) for b in batches)))
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
    """Backpropagate the loss of `batches` and update the weights once."""
    run.optimizers.set_lr(run.updates)
    if not batches:  # every image of this step has become unreadable, and was told
        return
    losses = within_memory(run, batches, backpropagate)
    if run.precision.judge(run.metrics.is_finite):
        update_weights(run)
        run.metrics.add(losses)
        run.state.bad_steps = 0
    else:
        bad_step(run, batches, losses)
    run.optimizers.zero_grad()
    run.ema.update(run.state.step + 1)


def backpropagate(run: Run, batches: Sequence[Batch]) -> Tensor:
    """Leave the gradient of `batches`, clipped, and return the loss of each image, (N,), on the device.

    Every image weighs 1 / images_per_step, also where a batch is short, so that all images count alike.
    """
    losses = []
    for batch in batches:
        with run.precision.autocast():
            of_batch = run.objective(batch)  # (B,)
        run.precision.backward(of_batch.sum() / run.images_per_step)
        losses.append(of_batch.detach())  # stays on the device: nothing is read here
    of_step = torch.cat(losses)
    run.metrics.grad_norm = run.precision.clip(run.optimizers, run.max_grad_norm)
    run.metrics.is_finite = torch.isfinite(run.metrics.grad_norm) & torch.isfinite(of_step).all()
    return of_step
