"""Validation: the same noise on the same images every time, so that only the model makes a difference.

Nothing here draws from a global generator or touches a gradient, so training is the same with and without it.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ed2.curve_names import LOSS_VAL
from ed2.data.example import Example, Finding
from ed2.data.loader import Loader
from ed2.data.pixels import LoaderOptions
from ed2.events import Event, EventBus, PhaseChanged, ValidationDone, Warned
from ed2.models.base import evaluating, trained_parts
from ed2.models.memory import is_out_of_memory, release_memory
from ed2.ranks.base import Message, OneRank, RankAnswer, Ranks
from ed2.text import counted
from ed2.training.metrics import Mean
from ed2.training.objective import Objective
from ed2.training.recovery import split_batches
from ed2.training.shared import OUT_OF_MEMORY, OutOfMemoryElsewhereError
from ed2.training.state import VALIDATION, Job, Run, TrainState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Validator:
    """Measures the mean loss over several sets of images.

    Attributes:
        objective: plain MSE under the seed of the validation; every image is visited in epoch 0, so that its noise and
            timestep are always the same.
        curves: the images of each curve, by TensorBoard tag.
        options: how the images are loaded.
        autocast: gives the context of a forward pass.
        should_stop: asked before each batch.
        on_problem: called at each validation for images that can no longer be read or were changed.
        on_progress: called with the number of images done and the total.
        ranks: the processes that share the images.
    """

    objective: Objective
    curves: Mapping[str, Sequence[Example]]
    options: LoaderOptions
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    should_stop: Callable[[], bool] = lambda: False
    on_problem: Callable[[Finding], None] = lambda finding: None
    on_progress: Callable[[int, int], None] = lambda measured, total: None
    ranks: Ranks = field(default_factory=OneRank)

    def losses(self, at_once: int | None = None) -> dict[str, float] | None:
        """Return the mean loss of each curve; None if a stop interrupted it.

        Args:
            at_once: images per forward pass at most; None for whole batches.

        Raises:
            OutOfMemoryElsewhereError: another process has run out of memory.
        """
        self.ranks.ask(VALIDATION, {"at_once": at_once})
        means = self._means(at_once)
        answers = self.ranks.answers(self.should_stop) if means is not None else []
        if means is None or len(answers) < self.ranks.size - 1:
            return None
        for answer in answers:
            if OUT_OF_MEMORY in answer.say:
                raise OutOfMemoryElsewhereError
            for values in answer.say["found"]:
                self.on_problem(Finding(**{**values, "file": values["file"] and Path(values["file"])}))
            for tag, values in answer.say["means"].items():
                means[tag].include(values)
        return {tag: mean.take() for tag, mean in means.items() if mean.count}

    def answer(self, say: Message) -> RankAnswer:
        """The sums over the images of this process, for rank 0."""
        found: list[Finding] = []
        try:
            means = replace(self, on_problem=found.append)._means(say["at_once"]) or {}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return RankAnswer({OUT_OF_MEMORY: True})
        findings = [{**asdict(finding), "file": finding.file and str(finding.file)} for finding in found]
        return RankAnswer({"means": {tag: mean.state() for tag, mean in means.items()}, "found": findings})

    def _means(self, at_once: int | None) -> dict[str, Mean] | None:
        """The sums of the losses of each curve over the images of this process; None if a stop interrupted it."""
        networks = [part.module for part in trained_parts(self.objective.model).values()]
        found: dict[str, Mean] = {}
        curves = {tag: self._share_of(examples) for tag, examples in self.curves.items()}
        before, total = 0, sum(map(len, curves.values()))
        with torch.no_grad(), evaluating(*networks):
            # Each image counts once, whatever its batch, so curves of different folders can be compared.
            for tag, examples in curves.items():
                mean = self._mean(examples, at_once, before, total)
                if mean is None:
                    return None
                found[tag] = mean
                before += len(examples)
        return found

    def _share_of(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The images that this process measures: of each bucket about as many as the others do."""
        if self.ranks.size == 1:
            return examples
        return sorted(examples, key=lambda example: example.bucket)[self.ranks.rank :: self.ranks.size]

    def _mean(self, examples: Sequence[Example], at_once: int | None, before: int, total: int) -> Mean | None:
        mean, measured = Mean(), before
        with Loader(examples, self.options, on_problem=self.on_problem) as loader:
            # Always epoch 0: another epoch would draw other noise, and the curve would move by itself.
            for batches in loader.groups(0):
                if self.should_stop():
                    return None
                for batch in split_batches(batches, at_once):
                    with self.autocast():
                        mean.add(self.objective(batch))
                measured += sum(len(batch.captions) for batch in batches)
                self.on_progress(measured, total)
        return mean


@dataclass
class Measuring:
    """Measures images for a job, in smaller batches if memory runs out; training continues in any case.

    Attributes:
        name: of the job.
        what: is measured, for messages.
        batch_size: images per forward pass at first.
    """

    training: Run
    bus: EventBus
    name: str
    what: str
    batch_size: int
    _at_once: int | None = None

    def losses(self, state: TrainState, measure: Callable[[int | None], dict[str, float] | None]) -> dict[str, float]:
        """Return what `measure` does, given how many images to measure at once; nothing where it was interrupted."""
        self.bus.emit(PhaseChanged(state.step, "validating"))
        while True:
            try:
                with self.training.optimizers.averaged():  # schedule-free optimizers do not train these weights
                    values = measure(self._at_once)
                if values is None:
                    # So that a resumed run measures it before its next step and the curve has no gap.
                    state.cut_short.append(self.name)
                return values or {}
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.info("Out of memory during %s.", self.what, exc_info=True)
            release_memory(self.training.objective.device)
            # Its own limit: there are no gradients, so what training can afford says little.
            largest = self._at_once or self.batch_size
            problem = f"Out of memory during {self.what} of step {state.step}."
            # A curve with a gap is better than a run that ends for the sake of a measurement.
            if largest == 1:
                self.bus.emit(Warned(state.step, f"{problem} It was skipped; training continues."))
                return {}
            self._at_once = largest // 2
            images = counted(self._at_once, "image")
            self.bus.emit(Warned(state.step, f"{problem} Retrying with {images} at a time, as in all later ones."))


@dataclass
class ValidationJob(Job):
    """Validates before the first step, at an interval of epochs or fractions of one, and at the end.

    Attributes:
        every_n_epochs: from 1: at the end of every n-th epoch; below 1: round(1 / n) times per epoch.
        patience: validations without a new lowest loss after which the run ends, at the end of an epoch; 0 for never.
    """

    training: Run
    validator: Validator
    bus: EventBus
    every_n_epochs: float
    patience: int = 0
    name = VALIDATION

    def __post_init__(self) -> None:
        batch_size = self.validator.options.batch_size
        self._measuring = Measuring(self.training, self.bus, self.name, "the validation", batch_size)

    def due(self, state: TrainState) -> bool:
        """Whether to measure after this step."""
        if self.training.finished:
            return True
        if self.every_n_epochs >= 1:
            return state.epoch_ended and state.epoch % round(self.every_n_epochs) == 0
        if state.epoch_ended:
            return True
        times, steps = round(1 / self.every_n_epochs), self.training.steps_in(state.epoch)
        return state.position * times // steps > (state.position - 1) * times // steps

    def at_start(self, state: TrainState) -> Event | None:
        """Measure the untrained model; in a resumed run only if a stop interrupted it."""
        return self.perform(state) if state.due_at_start(self.name) else None

    def perform(self, state: TrainState) -> ValidationDone | None:
        """Measure, unless a stop interrupts it or there is no memory for it."""
        values = self._measuring.losses(state, self.validator.losses)
        return self._result(state, values) if values else None

    def _result(self, state: TrainState, values: dict[str, float]) -> ValidationDone:
        """Count what was measured, and end the run early where it has not improved for long enough."""
        loss = values.get(LOSS_VAL, math.nan)
        if math.isfinite(loss):
            state.validated(loss)
        is_enough = self.patience and state.without_improvement >= self.patience
        if is_enough and state.epoch_ended and not self.training.finished:
            validations = counted(state.without_improvement, "validation")
            self.training.ended_early = (
                f"stopped early: {validations} without improvement since step {state.best_step}, where the validation "
                f"loss was {state.best_loss:.4f}"
            )
            state.without_improvement = 0  # a run that is resumed after this is given as many again
        return ValidationDone(state.step, values)
