"""Validation: the same noise on the same images every time, so that only the model makes a difference.

Nothing here draws from a global generator or touches a gradient, so training is the same with and without it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from ed2.curve_names import LOSS_VAL
from ed2.data.example import Example
from ed2.data.loader import Loader
from ed2.data.pixels import LoaderOptions
from ed2.events import Event, ValidationDone
from ed2.models.base import evaluating
from ed2.text import counted
from ed2.training.measuring import Measuring, OnProblem, Sums
from ed2.training.metrics import Mean
from ed2.training.objective import Objective
from ed2.training.recovery import split_batches
from ed2.training.state import VALIDATION, Job, Run, TrainState


@dataclass(frozen=True, kw_only=True)
class Validator:
    """Measures the losses of several sets of images.

    Attributes:
        objective: plain MSE under the seed of the validation; every image is visited in epoch 0, so that its noise and
            timestep are always the same.
        curves: the images of each curve, by TensorBoard tag.
        options: how the images are loaded.
        autocast: gives the context of a forward pass.
        should_stop: asked before each batch.
        on_progress: called with the number of images done and the total.
    """

    objective: Objective
    curves: Mapping[str, Sequence[Example]]
    options: LoaderOptions
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    should_stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[int, int], None] = lambda measured, total: None

    def __call__(self, at_once: int | None, on_problem: OnProblem) -> Sums | None:
        """Return the sum of the losses of each curve; None if a stop interrupted it."""
        found: Sums = {}
        before, total = 0, sum(map(len, self.curves.values()))
        with torch.no_grad(), evaluating(self.objective.model):
            # Each image counts once, whatever its batch, so curves of different folders can be compared.
            for tag, examples in self.curves.items():
                mean = Mean()
                with Loader(examples, self.options, on_problem=on_problem) as loader:
                    # Always epoch 0: another epoch would draw other noise, and the curve would move by itself.
                    for batches in loader.groups(0):
                        if self.should_stop():
                            return None
                        for batch in split_batches(batches, at_once):
                            with self.autocast():
                                mean.add(self.objective(batch))
                        before += sum(len(batch.captions) for batch in batches)
                        self.on_progress(before, total)
                found[tag] = mean.sum()
        return found


@dataclass
class ValidationJob(Job):
    """Validates before the first step, at an interval of epochs or fractions of one, and at the end.

    Attributes:
        every_n_epochs: from 1: at the end of every n-th epoch; below 1: round(1 / n) times per epoch.
        patience: validations without a new lowest loss after which the run ends, at the end of an epoch; 0 for never.
    """

    run: Run
    measuring: Measuring
    every_n_epochs: float
    patience: int = 0
    name = VALIDATION

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

    def at_start(self, state: TrainState) -> Event | None:
        """Measure the untrained model; in a resumed run only if a stop interrupted it."""
        return self.perform(state) if state.due_at_start(self.name) else None

    def perform(self, state: TrainState) -> ValidationDone | None:
        """Measure, unless a stop interrupts it or there is no memory for it."""
        values = self.measuring.losses(state)
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
