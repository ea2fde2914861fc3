"""The loss of each training image, at the same noise every time, so that images and steps can be compared.

Every image gets the same few noise levels, evenly spaced over those that are trained: with a level drawn at random for
each, the level would decide which image has the higher loss. Training is the same with and without it.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ed2.data.batch import Batch
from ed2.data.example import Example
from ed2.data.loader import Loader
from ed2.data.pixels import LoaderOptions
from ed2.events import Event, ImagesMeasured
from ed2.models.base import evaluating
from ed2.training.measuring import Measuring, OnProblem, Sums
from ed2.training.objective import Objective, gaussian
from ed2.training.recovery import split_batches
from ed2.training.state import IMAGE_LOSSES, Job, Run, TrainState

NUM_LEVELS = 4
"""Noise levels per image: forward passes that a measurement of an image takes."""


@dataclass(frozen=True, kw_only=True)
class ImageLossMeter:
    """Measures the loss of each image.

    Attributes:
        objective: plain MSE under the seed of the validation.
        examples: the images, as they are validated: once each, with their whole caption.
        options: how the images are loaded.
        timesteps: the noise levels, (L,), on the CPU.
        autocast: gives the context of a forward pass.
        should_stop: asked before each batch.
        on_progress: called with the number of images done and the total.
    """

    objective: Objective
    examples: Sequence[Example]
    options: LoaderOptions
    timesteps: Tensor
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    should_stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[int, int], None] = lambda measured, total: None

    def __call__(self, at_once: int | None, on_problem: OnProblem) -> Sums | None:
        """Return the loss of each image by its key; None if a stop interrupted it."""
        found: Sums = {}
        with (
            torch.no_grad(),
            evaluating(self.objective.model),
            Loader(self.examples, self.options, on_problem=on_problem) as loader,
        ):
            # Always epoch 0: another epoch would draw other noise.
            for batches in loader.groups(0):
                if self.should_stop():
                    return None
                for batch in split_batches(batches, at_once):
                    with self.autocast():
                        losses = self._of_batch(batch)
                    for visit, loss in zip(batch.visits, losses.tolist(), strict=True):
                        found[visit.key] = loss, 1
                self.on_progress(len(found), len(self.examples))
        return found

    def _of_batch(self, batch: Batch) -> Tensor:
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
class ImageLossJob(Job):
    """Measures each image before the first step, at the end of every n-th epoch, and at the end."""

    run: Run
    measuring: Measuring
    every_n_epochs: int
    name = IMAGE_LOSSES

    def due(self, state: TrainState) -> bool:
        """Whether to measure after this step."""
        return self.run.finished or (state.epoch_ended and state.epoch % self.every_n_epochs == 0)

    def at_start(self, state: TrainState) -> Event | None:
        """Measure the untrained model; in a resumed run only if a stop interrupted it."""
        return self.perform(state) if state.due_at_start(self.name) else None

    def perform(self, state: TrainState) -> ImagesMeasured | None:
        """Measure, unless a stop interrupts it or there is no memory for it."""
        losses = self.measuring.losses(state)
        return ImagesMeasured(state.step, losses) if losses else None
