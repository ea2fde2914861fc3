"""Samples as a job of the training loop."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from PIL import Image

from ed2.disk_errors import plain_reason
from ed2.events import EventBus, PhaseChanged, Progressed, Sample, SampleDrawn, SamplesMade, Warned
from ed2.models.base import DiffusionModel
from ed2.models.memory import is_out_of_memory
from ed2.ranks.base import Ranks
from ed2.sampling.adaptive import AdaptiveSampler
from ed2.sampling.images import list_sample, write_image
from ed2.sampling.prompt import NUM_STEPS, Prompt
from ed2.sampling.prompts import PromptFile
from ed2.sampling.sampler import Drawn, SampleOptions, batches_of
from ed2.sampling.sharing import NEWS, ask_for_samples, own_batches, samples_of
from ed2.text import counted, plural, rough_duration
from ed2.training.controls import Controls
from ed2.training.state import SAMPLES, Job, TrainState

Weights = Callable[[], AbstractContextManager[None]]
"""A context in which a network has other weights than those in training."""
Naming = Callable[[Prompt], Prompt]
AS_TRAINED = 1000
"""Added to a prompt's index for the image drawn with the trained weights, besides the one drawn with the EMA: more than
any file has prompts."""

LONG_SECONDS = 300.0
"""Samples that take longer are worth a warning."""
_SURVIVED = (RuntimeError, OSError, ValueError, MemoryError)
"""Errors in sampling that do not end the run; running out of GPU memory is a RuntimeError."""

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SampleJob(Job):
    """Draws the prompts of a file every `sample_steps` steps and after the last one.

    Attributes:
        prompts: read again each time.
        autocast: gives the context of a forward pass.
        is_over: whether the last step is done.
        batch_size: prompts in one forward pass, unless the file sets it; fewer if memory is short.
        sampler: a name in `SAMPLERS`; None for the default one.
        num_steps: denoising steps.
        weights: the weights to draw with, all prompts with each; the second set counts as separate samples.
        own_weights: how many of these, the first, only this process has.
        ranks: the processes that share the prompts.
    """

    model: DiffusionModel
    prompts: PromptFile
    run_dir: Path
    bus: EventBus
    controls: Controls
    is_over: Callable[[TrainState], bool]
    sample_steps: int
    batch_size: int = 1
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    sampler: str | None = None
    num_steps: int = NUM_STEPS
    weights: Sequence[Weights] = (nullcontext,)
    own_weights: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    name = SAMPLES

    def __post_init__(self) -> None:
        self._timed = 0
        self._adaptive = AdaptiveSampler(self.prompts.multiple)

    def due(self, state: TrainState) -> bool:
        """Every `sample_steps` steps, and after the last."""
        return state.step % self.sample_steps == 0 or self.is_over(state)

    def at_start(self, state: TrainState) -> SamplesMade | None:
        """Draw with the untrained model; in a resumed run only if a stop interrupted it."""
        note = self._read(state.step)[1]
        if state.due_at_start(self.name) and (state.step or self.prompts.options.before_training):
            return self.perform(state, note)
        self._warn(state.step, note)
        return None

    def perform(self, state: TrainState, note: str = "") -> SamplesMade | None:
        """Draw and write the samples; None if there are none. `note` is a pending message about the file.

        A stop leaves out unfinished samples. A failure is a warning, and training continues.
        """
        prompts, news = self._read(state.step)
        self._warn(state.step, note or news)
        if not prompts:
            return None
        if self.controls.stopping:
            state.cut_short.append(self.name)
            return None
        self.bus.emit(PhaseChanged(state.step, "sampling", counted(len(prompts), "prompt")))
        started = time.monotonic()
        samples = self._draw_and_write(state.step, prompts)
        is_whole = not self.controls.stopping or len(samples) == len(prompts) * len(self.weights)
        if not is_whole:
            state.cut_short.append(self.name)
        if not samples:
            return None
        return SamplesMade(state.step, tuple(samples), time.monotonic() - started, is_whole)

    def _draw_and_write(self, step: int, prompts: Sequence[Prompt]) -> list[Sample]:
        """Draw what can be drawn; returns the samples that were written, even if a later one failed."""
        samples: list[Sample] = []
        try:
            for sample in self._samples(step, prompts, samples):
                samples.append(sample)
        except _SURVIVED as error:
            self._warn(step, _describe_failure(error, step))
        finally:
            if news := self._adaptive.take_news():
                self._warn(step, f"Out of memory while drawing the samples of step {step}: {news}. Training continues.")
            self.bus.emit(PhaseChanged(step, "stopping" if self.controls.stopping else "training"))
        return samples

    def _samples(self, step: int, prompts: Sequence[Prompt], written: Sequence[Sample]) -> Iterator[Sample]:
        """Draw and write one sample after the other; `written` are the earlier ones."""
        total, began = len(prompts) * len(self.weights), time.monotonic()

        def report(at_once: int, place: int, steps: int) -> None:
            doing = f"drawing {_which(len(written), at_once, total)}: denoising step"
            self.bus.emit(Progressed(step, doing, place, steps))

        options = SampleOptions(
            sampler=self.sampler,
            num_steps=self.num_steps,
            batch_size=self.prompts.options.batch_size or self.batch_size,
            autocast=self.autocast,
            should_stop=lambda: self.controls.stopping,
            on_step=report,
        )
        for turn, weights in enumerate(self.weights):
            named = _as_trained if turn else _unchanged
            own = replace(options, on_image=partial(self._write, step, named))
            draw = self._draw_shared if self.ranks.size > 1 and turn >= self.own_weights else self._draw
            with weights():
                for drawn in draw(prompts, own):
                    self._warn_if_long(step, len(written) + 1, total, time.monotonic() - began)
                    yield list_sample(self.run_dir, step=step, prompt=named(drawn.prompt))

    def _draw(self, prompts: Sequence[Prompt], options: SampleOptions) -> Iterator[Drawn]:
        return self._adaptive.draw(self.model, prompts, options)

    def _draw_shared(self, prompts: Sequence[Prompt], options: SampleOptions) -> Iterator[Drawn]:
        """Draw a share of the prompts, and write what the other processes draw; yielded in the order of the prompts."""
        options = replace(options, batch_size=min(options.batch_size, self._adaptive.at_once))
        batches = list(batches_of(prompts, options.batch_size))
        ask_for_samples(self.ranks, batches, options)
        finished: dict[int, Drawn] = {}
        failure: Exception | None = None
        try:
            for drawn in self._all_drawn(batches, options):
                finished[drawn.prompt.index] = drawn
        except _SURVIVED as error:
            failure = error
        yield from (finished[prompt.index] for prompt in prompts if prompt.index in finished)
        if failure:
            raise failure

    def _all_drawn(self, batches: Sequence[Sequence[Prompt]], options: SampleOptions) -> Iterator[Drawn]:
        for batch in own_batches(batches, self.ranks):
            yield from self._draw(batch, options)
        by_index = {prompt.index: prompt for batch in batches for prompt in batch}
        for answer in self.ranks.answers(options.should_stop):
            self._adaptive.add_news(answer.values[NEWS])
            for drawn in samples_of(answer, by_index):
                for place, image in enumerate(drawn.tiles):
                    options.on_image(drawn.prompt, place, image)
                yield drawn

    def _write(self, step: int, named: Naming, prompt: Prompt, place: int, image: Image.Image) -> None:
        """Write an image that was just drawn, and show it."""
        sample = write_image(self.run_dir, step=step, prompt=named(prompt), place=place, image=image)
        self.bus.emit(SampleDrawn(step, sample))

    def _warn_if_long(self, step: int, done: int, total: int, seconds: float) -> None:
        """Say once of a number of prompts how long they take, where that is long: at step 0 before any training."""
        needed = seconds / done * total
        if needed >= LONG_SECONDS and total != self._timed:
            self._timed = total
            every = f"every {counted(self.sample_steps, 'step')}"
            text = f"{counted(total, 'sample')} take about {rough_duration(needed)} each time, {every}."
            self._warn(step, f"{text} Use fewer prompts or raise sample_steps if that is too long.")

    def _read(self, step: int) -> tuple[tuple[Prompt, ...], str]:
        """Read the file, which may also set how often samples are made."""
        prompts, note = self.prompts.read(step)
        wanted = self.prompts.options.sample_steps
        if wanted and wanted != self.sample_steps:
            note = f"{note} Samples are made every {wanted} steps from now on.".strip()
            self.sample_steps = wanted
        return prompts, note

    def _warn(self, step: int, text: str) -> None:
        if text:
            self.bus.emit(Warned(step, text))


def _which(done: int, at_once: int, total: int) -> str:
    """The samples that are being drawn: all of them, one, or a range."""
    if at_once == total:
        return counted(total, "sample")
    place = f"{done + 1:,}" if at_once == 1 else f"{done + 1:,} to {done + at_once:,}"
    return f"{plural(at_once, 'sample')} {place} of {total:,}"


def _describe_failure(error: Exception, step: int) -> str:
    if is_out_of_memory(error):
        return f"Out of memory while drawing the samples of step {step}. Training continues."
    return f"The samples of step {step} could not be made ({plain_reason(error)[:300]}). Training continues."


def _unchanged(prompt: Prompt) -> Prompt:
    return prompt


def _as_trained(prompt: Prompt) -> Prompt:
    return replace(prompt, index=prompt.index + AS_TRAINED, prompt=f"{prompt.prompt} (weights as trained)")
