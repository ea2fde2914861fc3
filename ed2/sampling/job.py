"""Samples as a job of the training loop."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from ed2.disk import plain_reason
from ed2.events import EventBus, PhaseChanged, Progressed, Sample, SamplesMade, Warned
from ed2.models.memory import is_out_of_memory
from ed2.models.sd import StableDiffusion
from ed2.sampling.fitting import Fitting
from ed2.sampling.images import write_sample
from ed2.sampling.prompt import Prompt
from ed2.sampling.prompts import PromptFile
from ed2.sampling.sampler import NUM_STEPS, SampleOptions
from ed2.training.state import Controls, TrainState

Weights = Callable[[], AbstractContextManager[None]]
"""Gives a network other weights than those in training, while it lasts."""
AS_TRAINED = 100
"""Added to a prompt's number where its image is drawn by the weights in training, besides by their average."""

SAMPLES = "samples"
_SURVIVED = (RuntimeError, OSError, ValueError, MemoryError)
"""What may go wrong in sampling without ending the training; out of memory on a card is a RuntimeError."""


@dataclass(kw_only=True)
class SampleJob:
    """Draws the prompts of a file every `sample_steps` steps and after the last one.

    Attributes:
        prompts: read again each time.
        autocast: gives the context of a forward pass.
        total_steps: optimizer steps of the whole run.
        batch_size: prompts in one forward pass, where the file does not say; fewer when the memory does not suffice.
        sampler: a name in `SAMPLERS`.
        num_steps: denoising steps.
        weights: what to draw with, all prompts with each; the second time as samples of their own.
    """

    model: StableDiffusion
    prompts: PromptFile
    run_dir: Path
    bus: EventBus
    controls: Controls
    total_steps: int
    sample_steps: int
    batch_size: int = 1
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    sampler: str = "ddim"
    num_steps: int = NUM_STEPS
    weights: Sequence[Weights] = (nullcontext,)

    def __post_init__(self) -> None:
        self._fitting = Fitting(self.prompts.multiple)

    def due(self, state: TrainState) -> bool:
        """Every `sample_steps` steps, and after the last."""
        return state.step % self.sample_steps == 0 or state.step >= self.total_steps

    def before_first_step(self, state: TrainState) -> SamplesMade | None:
        """What the model draws untrained; where a run goes on only what a stop has cut short."""
        note = self._read(state.step)[1]
        if state.again(SAMPLES) and (state.step or self.prompts.options.before_training):
            return self.run(state, note)
        if note:
            self.bus.emit(Warned(state.step, note))
        return None

    def run(self, state: TrainState, told: str = "") -> SamplesMade | None:
        """Draw and write the samples; None when there are none. `told` is still to be said of the file.

        A stop leaves out what is not finished. A failure is told and leaves the training alone.
        """
        prompts, note = self._read(state.step)
        if told or note:
            self.bus.emit(Warned(state.step, told or note))
        if not prompts or self.controls.stopping:
            state.cut_short += [SAMPLES] if prompts else []
            return None
        count = f"{len(prompts)} prompt{'s' * (len(prompts) > 1)}"
        self.bus.emit(PhaseChanged(state.step, "sampling", count))
        began = time.monotonic()
        samples: list[Sample] = []
        try:
            self._draw(state.step, prompts, samples)
        except _SURVIVED as error:
            self.bus.emit(Warned(state.step, _what_failed(error, state.step)))
        finally:
            if told := self._fitting.told():
                text = f"The memory did not suffice for the samples of step {state.step}: {told}."
                self.bus.emit(Warned(state.step, f"{text} The training goes on."))
            self.bus.emit(PhaseChanged(state.step, "stopping" if self.controls.stopping else "training"))
        is_whole = not self.controls.stopping or len(samples) == len(prompts) * len(self.weights)
        if not is_whole:
            state.cut_short.append(SAMPLES)
        return SamplesMade(state.step, tuple(samples), time.monotonic() - began, is_whole) if samples else None

    def _read(self, step: int) -> tuple[tuple[Prompt, ...], str]:
        """Read the file, which may also say how often samples are made."""
        prompts, note = self.prompts.read(step)
        wanted = self.prompts.options.sample_steps
        if wanted and wanted != self.sample_steps:
            note = f"{note} Samples are made every {wanted} steps from now on.".strip()
            self.sample_steps = wanted
        return prompts, note

    def _draw(self, step: int, prompts: tuple[Prompt, ...], samples: list[Sample]) -> None:
        """Add to `samples` as they are written, so that those before a failure count."""
        total = len(prompts) * len(self.weights)

        def tell(at_once: int, place: int, steps: int) -> None:
            doing = f"drawing {_which(len(samples), at_once, total)}: step"
            self.bus.emit(Progressed(step, doing, place, steps))

        options = SampleOptions(
            sampler=self.sampler,
            num_steps=self.num_steps,
            batch_size=self.prompts.options.batch_size or self.batch_size,
            autocast=self.autocast,
            should_stop=lambda: self.controls.stopping,
            on_step=tell,
        )
        for turn, weights in enumerate(self.weights):
            with weights():
                for drawn in self._fitting.draw(self.model, prompts, options):
                    prompt = _as_trained(drawn.prompt) if turn else drawn.prompt
                    samples.append(write_sample(self.run_dir, step=step, prompt=prompt, tiles=drawn.tiles))


def _which(done: int, at_once: int, total: int) -> str:
    """The samples that are drawn now: all of them, one, or a range."""
    if at_once == total:
        return f"{total} sample{'s' * (total > 1)}"
    place = f"{done + 1:,}" if at_once == 1 else f"{done + 1:,} to {done + at_once:,}"
    return f"sample{'s' * (at_once > 1)} {place} of {total:,}"


def _what_failed(error: Exception, step: int) -> str:
    if is_out_of_memory(error):
        return f"The memory did not suffice for the samples of step {step}. The training goes on."
    reason = plain_reason(error)[:300]
    return f"The samples of step {step} could not be made ({reason}). The training goes on."


def _as_trained(prompt: Prompt) -> Prompt:
    return replace(prompt, index=prompt.index + AS_TRAINED, prompt=f"{prompt.prompt} (weights as trained)")
