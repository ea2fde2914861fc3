"""What every run measures: curves every few steps, and the loss of each epoch."""

import math
from dataclasses import dataclass

import torch

from ed2.curve_names import GRAD_NORM, GRAD_SCALE, IMAGES_PER_SECOND, LOSS, VRAM, lr_curve
from ed2.events import EpochEnded, MetricsLogged
from ed2.training.state import Job, Run, TrainState
from ed2.vram.card import BYTES_PER_GB


@dataclass
class MetricsJob(Job):
    """Logs the curves at the first step, every `log_step` steps and at the last."""

    training: Run
    log_step: int
    name = "metrics"

    def due(self, state: TrainState) -> bool:
        """Whether this step is logged."""
        return state.step == 1 or state.step % self.log_step == 0 or self.training.finished

    def perform(self, state: TrainState) -> MetricsLogged:
        """Read the sums from the device. Values that are not finite are left off the curves."""
        run = self.training
        values = {LOSS: run.metrics.window.take()}
        values |= {lr_curve(name): lr for name, lr in run.optimizers.lrs().items()}
        if run.precision.scaler.is_enabled():
            values[GRAD_SCALE] = run.precision.scale
        values[GRAD_NORM] = float(run.metrics.grad_norm)
        values[IMAGES_PER_SECOND] = run.metrics.images_per_second()
        device = run.objective.device
        if device.type == "cuda":
            values[VRAM] = torch.cuda.max_memory_reserved(device) / BYTES_PER_GB
        return MetricsLogged(state.step, {tag: value for tag, value in values.items() if math.isfinite(value)})


@dataclass
class EpochJob(Job):
    """Reports the end of each epoch, with its mean loss."""

    training: Run
    name = "epoch"

    def due(self, state: TrainState) -> bool:
        """Whether an epoch has just ended."""
        return state.epoch_ended

    def perform(self, state: TrainState) -> EpochEnded | None:
        """Read the sum of the epoch from the device; None if all its steps were skipped."""
        metrics = self.training.metrics
        loss, minutes = metrics.epoch.take(), metrics.epoch_minutes()
        return EpochEnded(state.step, state.epoch - 1, loss, minutes) if math.isfinite(loss) else None
