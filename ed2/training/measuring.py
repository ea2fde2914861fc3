"""Measurements of images besides training: each process does a share, in smaller batches where memory runs out."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ed2.data.example import Example, Finding
from ed2.events import Event, PhaseChanged, Warned
from ed2.models.memory import is_out_of_memory, release_memory
from ed2.ranks.base import Message, RankAnswer, Ranks
from ed2.text import counted
from ed2.training.shared_update import OUT_OF_MEMORY, OutOfMemoryElsewhereError
from ed2.training.state import Job, Run, TrainState

logger = logging.getLogger(__name__)

LossSums = dict[str, tuple[float, int]]
"""What was measured, by name: the sum of the losses, and how many there are."""
OnProblem = Callable[[Finding], None]
Measure = Callable[[int | None, OnProblem], LossSums | None]
"""measure(at_once, on_problem): measures the images of this process, at most `at_once` at a time (None for whole
batches); reports those that can no longer be read or were changed. Returns None if a stop interrupted it."""


def own_share(examples: Sequence[Example], ranks: Ranks) -> Sequence[Example]:
    """The images that this process measures: about as many of each bucket as every other process."""
    if ranks.size == 1:
        return examples
    return sorted(examples, key=lambda example: example.bucket)[ranks.rank :: ranks.size]


@dataclass(frozen=True)
class SharedMeter:
    """A measurement of which each process does its share.

    Attributes:
        name: of its job.
        measure: does the share of this process.
        batch_size: images per forward pass at first.
        ranks: the processes.
        should_stop: asked while the others are waited for.
        on_problem: called in the first process with what any of them finds.
    """

    name: str
    measure: Measure
    batch_size: int
    ranks: Ranks
    should_stop: Callable[[], bool]
    on_problem: OnProblem

    def losses(self, at_once: int | None = None) -> dict[str, float] | None:
        """Return the mean losses by name; None if a stop interrupted it. Only for rank 0.

        Raises:
            OutOfMemoryElsewhereError: another process has run out of memory.
        """
        self.ranks.ask(self.name, {"at_once": at_once})
        sums = self.measure(at_once, self.on_problem)
        answers = self.ranks.answers(self.should_stop) if sums is not None else []
        if sums is None or len(answers) < self.ranks.size - 1:
            return None
        for answer in answers:
            if OUT_OF_MEMORY in answer.values:
                raise OutOfMemoryElsewhereError
            for values in answer.values["found"]:
                self.on_problem(Finding(**{**values, "file": values["file"] and Path(values["file"])}))
            for name, (total, count) in answer.values["sums"].items():
                before, number = sums.get(name, (0.0, 0))
                sums[name] = before + total, number + count
        return {name: total / count for name, (total, count) in sums.items() if count}

    def answer(self, request: Message) -> RankAnswer:
        """The share of this process, for rank 0."""
        found: list[Finding] = []
        try:
            sums = self.measure(request["at_once"], found.append)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return RankAnswer({OUT_OF_MEMORY: True})
        findings = [{**asdict(finding), "file": finding.file and str(finding.file)} for finding in found]
        return RankAnswer({"sums": sums or {}, "found": findings})


@dataclass
class MeasuringJob(Job):
    """Measures images, in smaller batches if memory runs out; training continues in any case.

    Attributes:
        what: is measured, for messages.
    """

    run: Run
    meter: SharedMeter
    _at_once: int | None = field(default=None, init=False)
    what = ""

    def at_start(self, state: TrainState) -> Event | None:
        """Measure the untrained model; in a resumed run only if a stop interrupted it."""
        return self.perform(state) if state.due_at_start(self.name) else None

    def losses(self, state: TrainState) -> dict[str, float]:
        """Return the mean losses by name; nothing where it was interrupted."""
        bus = self.run.bus
        bus.emit(PhaseChanged(state.step, "validating"))
        while True:
            try:
                with self.run.optimizers.averaged():  # schedule-free optimizers do not train these weights
                    values = self.meter.losses(self._at_once)
                if values is None:
                    # So that a resumed run measures it before its next step and the curve has no gap.
                    state.cut_short.append(self.name)
                return values or {}
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.info("Out of memory during %s.", self.what, exc_info=True)
            release_memory(self.run.objective.device)
            # Its own limit: there are no gradients, so what training can afford says little.
            largest = self._at_once or self.meter.batch_size
            problem = f"Out of memory during {self.what} of step {state.step}."
            # A curve with a gap is better than a run that ends for the sake of a measurement.
            if largest == 1:
                bus.emit(Warned(state.step, f"{problem} It was skipped; training continues."))
                return {}
            self._at_once = largest // 2
            images = counted(self._at_once, "image")
            bus.emit(Warned(state.step, f"{problem} Retrying with {images} at a time, as in all later ones."))
