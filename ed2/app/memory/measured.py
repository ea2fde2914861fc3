"""The plan of a run's memory beside what the card has measured, and what is learnt from it for the next plans."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ed2.app.memory.corrections import CARDS_FILE, Corrections
from ed2.app.memory.spill_watch import SpillWatch
from ed2.events import Event, MemoryMeasured, PhaseChanged, SamplesMade, StepDone
from ed2.settings.schema import Settings
from ed2.training.state import Run
from ed2.vram.plan import ON_CARD, plan_memory
from ed2.vram.sampler import CardPeaks
from ed2.vram.shapes import ModelShape

TRAINING = ("encoding", "forward", "backward", "optimizer")
"""The phases of a plan that a step goes through."""
MEASURED_STEP = 3
"""The first step has no optimizer state in its passes; the third is like all that follow."""


@dataclass
class PeakWatch:
    """Listens to a run, measures its peak in training and in sampling once each, and tells both beside the plan.

    Attributes:
        run: what is measured. One that had to need less than was planned teaches nothing.
        by_phase: tensors as planned, uncorrected, by phase, in GB.
        peaks: the card's counters.
        card: its name.
        corrections: what is planned with, and where the measured goes.
    """

    run: Run
    by_phase: Mapping[str, float]
    peaks: CardPeaks
    card: str
    corrections: Corrections
    _steps: int = 0
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._known = self.corrections.overhead(self.card) or ON_CARD

    def __call__(self, event: Event) -> None:
        """Take notice of an event."""
        if isinstance(event, PhaseChanged):  # samples or a pause: what comes is measured by itself
            self.peaks.reset()
            self._steps = min(self._steps, 1)
        elif isinstance(event, StepDone):
            self._steps += 1
            if self._steps == 1:
                self.peaks.reset()
            elif self._steps == MEASURED_STEP and "training" not in self._told:
                self._tell(event.step, "training", max(self.by_phase.get(phase, 0.0) for phase in TRAINING))
        elif isinstance(event, SamplesMade) and "training" in self._told and "sampling" not in self._told:
            self._tell(event.step, "sampling", self.by_phase.get("sampling", 0.0))

    def _tell(self, step: int, what: Literal["training", "sampling"], planned_gb: float) -> None:
        if self.run.state.checkpointing or self.run.state.at_once:
            return
        reading = self.peaks.read(planned_gb)
        self._told.add(what)
        known = self._known
        low, expected, high = (
            ratio * known.allocated * planned_gb + context
            for ratio, context in zip(known.reserved, known.context_gb, strict=True)
        )
        context = known.context_gb[1] if reading.context_gb is None else reading.context_gb
        self.run.bus.emit(MemoryMeasured(step, what, expected, low, high, reading.reserved_gb + context))
        if what == "training":
            self.corrections.add(self.card, reading)


def watch_card(run: Run, settings: Settings, shape: ModelShape) -> None:
    """Let what a run on a card takes be measured, learnt and told; on a CPU there is nothing to watch."""
    device = run.objective.device
    if device.type != "cuda":
        return
    import torch

    peaks = CardPeaks(device.index or 0)
    plan = plan_memory(settings, shape)
    name = torch.cuda.get_device_name(device)
    run.bus.subscribe(PeakWatch(run, plan.by_phase, peaks, name, Corrections(CARDS_FILE)))
    run.bus.subscribe(SpillWatch(run, peaks.fullness))
