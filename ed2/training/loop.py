"""The training loop, in the order in which things happen."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ed2.data.loader import Batch
from ed2.events import PhaseChanged, StepDone
from ed2.training.recovery import report_skipped_step, retry_on_oom
from ed2.training.state import Run
from ed2.training.update import changing_weights


def train(run: Run) -> None:
    """Train from `run.state` to the last epoch.

    Raises:
        StopRequested: at the end of the step in which a stop was requested.
        TrainingError: the numbers stay non-finite, one image alone runs out of memory, no image is left to read, or an
            update of the weights failed.
    """
    while not run.finished:
        if not run.steps_in(run.state.epoch):  # possible where all multipliers are small fractions
            run.state.epoch += 1
            continue
        # A resumed run enters its epoch where it left it; the plan of an epoch does not depend on that.
        for batches in run.data.groups(run.state.epoch, run.state.position):
            run.data.require_readable()  # before the step counts, in case a drive is gone
            epoch = run.state.epoch  # of this step: counting the last step starts the next epoch
            optimizer_step(run, batches)
            run.state.count(batches, run.steps_in(run.state.epoch))
            run.bus.emit(StepDone(run.state.step, epoch, sum(len(b.captions) for b in batches)))
            # Jobs see the counted step: an epoch that ended with it has ended for them too.
            for job in run.jobs:
                if job.due(run.state):
                    run.bus.emit(job.perform(run.state))
            handle_requests(run)


def handle_requests(run: Run) -> None:
    """Stop, pause, save or sample between two steps, as requested. Nothing here trains or draws random numbers.

    Raises:
        StopRequested: a stop was requested.
    """
    controls = run.controls
    was_paused = False
    # A paused run stays here, and still saves and samples when asked to.
    while True:
        controls.raise_if_stopping()
        for request in controls.take():
            run.bus.emit(run.requested(request).perform(run.state))
            # A stop may arrive while a checkpoint is written or samples are drawn.
            controls.raise_if_stopping()
        if not controls.pausing:
            break
        was_paused = True
        run.bus.emit(PhaseChanged(run.state.step, "paused"))
        controls.wait()
    if was_paused:
        # The pause must not count as slow training.
        run.metrics.restart_clocks()
        run.bus.emit(PhaseChanged(run.state.step, "training"))


def optimizer_step(run: Run, batches: Sequence[Batch]) -> None:
    """Backpropagate the loss of `batches` and update the weights once.

    Raises:
        UpdateFailedError: the weights in memory are from an incomplete update.
    """
    # By update number, not by calling a scheduler: a skipped step or a resume cannot shift the curve.
    run.optimizers.set_lr(run.updates)
    if not batches:  # every image of this step has become unreadable, which was reported
        return
    losses, is_updated = retry_on_oom(run, batches, update_weights)
    # From here on a failure leaves weights, counters and average of different steps.
    with changing_weights():
        if is_updated:
            run.metrics.add(losses)
            run.state.bad_steps = 0
        else:
            report_skipped_step(run, batches, losses)
        # Also after a skipped step, so that the interval counts steps as the file names do.
        run.ema.update(run.state.step + 1)


def update_weights(run: Run, batches: Sequence[Batch]) -> tuple[Tensor, bool]:
    """Return the loss of each image, (N,), on the device, and whether the weights were updated.

    Every image has the weight 1 / images_per_step, even in a short batch, so that all images count equally.
    """
    losses = []
    for batch in batches:
        with run.precision.autocast():
            of_batch = run.objective(batch)  # (B,)
        run.update.accumulate(of_batch.sum() / run.images_per_step)
        losses.append(of_batch.detach())  # stays on the device: nothing is read here
    of_step = torch.cat(losses)  # before the weights change, since a step that runs out of memory is retried
    run.metrics.grad_norm, is_updated = run.update.finish()
    return of_step, is_updated
