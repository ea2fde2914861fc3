"""Losses at the same noise on the same images every time, so that only the model makes a difference.

Those of validation are means over sets of images; those of each training image can be compared with each other. Nothing
here draws from a global generator or touches a gradient, so training is the same with and without it.
"""

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ed2.curve_names import LOSS_VAL
from ed2.data.batch import Batch
from ed2.data.example import Example
from ed2.data.loader import Loader
from ed2.data.pixels import LoaderOptions
from ed2.events import ImagesMeasured, ValidationDone
from ed2.models.base import evaluating
from ed2.text import counted
from ed2.training.measuring import LossSums, MeasuringJob, OnProblem
from ed2.training.metrics import Mean
from ed2.training.objective import Objective, gaussian
from ed2.training.recovery import split_batches
from ed2.training.state import IMAGE_LOSSES, VALIDATION, TrainState

NUM_LEVELS = 4
"""Noise levels, and so forward passes, with which the loss of each training image is measured."""


@dataclass(frozen=True, kw_only=True)
class Meter(ABC):
    """Measures the losses of images, which are loaded as they are validated: once each, with their whole caption.

    Attributes:
        objective: plain MSE under the seed of the validation.
        sets: the images of each set, by its name.
        options: how the images are loaded.
        autocast: gives the context of a forward pass.
        should_stop: asked before each batch.
        on_progress: called with the number of images done and the total.
    """

    objective: Objective
    sets: Mapping[str, Sequence[Example]]
    options: LoaderOptions
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    should_stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[int, int], None] = lambda measured, total: None

    def __call__(self, at_once: int | None, on_problem: OnProblem) -> LossSums | None:
        """Return the sums of the losses, and how many there are, by name; None if a stop interrupted it."""
        means: defaultdict[str, Mean] = defaultdict(Mean)
        done, total = 0, sum(map(len, self.sets.values()))
        with torch.no_grad(), evaluating(self.objective.model):
            for name, examples in self.sets.items():
                with Loader(examples, self.options, on_problem=on_problem) as loader:
                    # Always epoch 0: another epoch would draw other noise, and the losses would move by themselves.
                    for batches in loader.groups(0):
                        if self.should_stop():
                            return None
                        for batch in split_batches(batches, at_once):
                            with self.autocast():
                                self.add(means, name, batch)
                        done += sum(map(len, batches))
                        self.on_progress(done, total)
        return {name: mean.sum() for name, mean in means.items()}

    @abstractmethod
    def add(self, means: defaultdict[str, Mean], name: str, batch: Batch) -> None:
        """Add the losses of a batch of the set of that name; a mean that is not there yet begins when it is taken."""


class Validator(Meter):
    """Measures the mean loss of each set, whose names are curves, at one timestep for each image."""

    def add(self, means: defaultdict[str, Mean], name: str, batch: Batch) -> None:
        """Each image counts once, whatever its batch, so curves of different folders can be compared."""
        means[name].add(self.objective(batch))


@dataclass(frozen=True, kw_only=True)
class ImageLossMeter(Meter):
    """Measures the loss of each image, by its key.

    Every image gets the same few noise levels: with a level drawn at random for each, the level would decide which
    image has the higher loss.

    Attributes:
        timesteps: the noise levels, (L,), on the CPU, evenly spaced over those that are trained.
    """

    timesteps: Tensor

    def add(self, means: defaultdict[str, Mean], name: str, batch: Batch) -> None:
        """Add the mean loss of each image over the noise levels."""
        for visit, loss in zip(batch.visits, self._losses_of(batch), strict=True):
            means[visit.key].add(loss)

    def _losses_of(self, batch: Batch) -> Tensor:
        """The mean loss of each image over the noise levels: (B,)."""
        objective, model = self.objective, self.objective.model
        model.visits.visits = batch.visits
        latents, conditioning = objective.latents(batch), objective.conditioning(batch)
        total = torch.zeros(len(batch), device=objective.device)
        for level, timestep in enumerate(self.timesteps.tolist()):
            visits = [visit._replace(repeat=level) for visit in batch.visits]
            noise = gaussian(objective.seed, "noise", visits, latents.shape[1:]).to(objective.device)
            timesteps = torch.full((len(batch),), timestep, device=objective.device)
            prediction = model.predict(model.process.add_noise(latents, noise, timesteps), timesteps, conditioning)
            target = model.process.target(latents, noise, timesteps)
            total += objective.loss(prediction, target, model.process.position(timesteps))
        return total / len(self.timesteps)


@dataclass
class ValidationJob(MeasuringJob):
    """Validates before the first step, at an interval of epochs or fractions of one, and at the end.

    Attributes:
        every_n_epochs: from 1: at the end of every n-th epoch; below 1: round(1 / n) times per epoch.
        patience: validations without a new lowest loss after which the run ends, at the end of an epoch; 0 for never.
    """

    every_n_epochs: float
    patience: int = 0
    name, what = VALIDATION, "the validation"

    def due(self, state: TrainState) -> bool:
        """Whether to measure after this step."""
        if self.run.finished:
            return True
        if self.every_n_epochs >= 1:
            return state.epoch_ended and state.epoch % round(self.every_n_epochs) == 0
        if state.epoch_ended:
            return True
        times, steps = round(1 / self.every_n_epochs), self.run.steps_in(state.epoch)
        return state.position * times // steps > (state.position - 1) * times // steps

    def perform(self, state: TrainState) -> ValidationDone | None:
        """Measure, unless a stop interrupts it or there is no memory for it."""
        values = self.losses(state)
        return self._result(state, values) if values else None

    def _result(self, state: TrainState, values: dict[str, float]) -> ValidationDone:
        """Count what was measured, and end the run early where it has not improved for long enough."""
        loss = values.get(LOSS_VAL, math.nan)
        if math.isfinite(loss):
            state.validated(loss)
        is_enough = self.patience and state.without_improvement >= self.patience
        if is_enough and state.epoch_ended and not self.run.finished:
            validations = counted(state.without_improvement, "validation")
            self.run.ended_early = (
                f"stopped early: {validations} without improvement since step {state.best_step}, where the validation "
                f"loss was {state.best_loss:.4f}"
            )
            state.without_improvement = 0  # a run that is resumed after this is given as many again
        return ValidationDone(state.step, values)


@dataclass
class ImageLossJob(MeasuringJob):
    """Measures each training image before the first step, at the end of every n-th epoch, and at the end."""

    every_n_epochs: int
    name, what = IMAGE_LOSSES, "the measurement of each image"

    def due(self, state: TrainState) -> bool:
        """Whether to measure after this step."""
        return self.run.finished or (state.epoch_ended and state.epoch % self.every_n_epochs == 0)

    def perform(self, state: TrainState) -> ImagesMeasured | None:
        """Measure, unless a stop interrupts it or there is no memory for it."""
        losses = self.losses(state)
        return ImagesMeasured(state.step, losses) if losses else None
