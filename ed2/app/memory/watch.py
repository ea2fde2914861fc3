"""Listeners that watch the GPU memory of a run: its measured peak beside the plan, and a spill into system memory."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from ed2.app.measured import CARDS_FILE, Corrections
from ed2.events import Event, MemoryMeasured, MetricsLogged, PhaseChanged, SamplesMade, StepDone, Warned
from ed2.settings.schema import Settings
from ed2.training.state import Run
from ed2.vram.overhead import ON_CARD
from ed2.vram.plan import plan_memory
from ed2.vram.sampler import CardPeaks
from ed2.vram.shapes import ModelShape

TRAINING_PHASES = ("encoding", "forward", "backward", "optimizer")
MEASURED_STEP = 3
"""The first steps may include one-time allocations; the third is like all later ones."""

RECENT_STEPS = 5
STEPS_BEFORE = 15
"""Steps from which the usual duration is taken."""
EARLY_STEPS = 3
"""Steps with room on the GPU that tell the usual duration at the beginning of a run."""
SLOW_FACTOR = 2.0
"""Buckets of equal area differ in step time by far less than this factor."""
FULL = 0.95
"""Used share of a GPU's memory at which a driver starts to spill: it reserves a few hundred megabytes."""
CARD_SECONDS = 2.0
"""Minimum time between two readings of the GPU."""
KEPT_STEPS = 10 * STEPS_BEFORE + RECENT_STEPS
SPILL_FIX = (
    "Lower batch_size or resolution, or turn on gradient_checkpointing. To get an out-of-memory error instead of slow "
    "steps, set NVIDIA Control Panel > Manage 3D settings > CUDA - Sysmem Fallback Policy to Prefer No Sysmem Fallback."
)


def watch_card(run: Run, settings: Settings, shape: ModelShape) -> None:
    """Measure the memory of a run on a GPU, report it and learn from it; on a CPU, do nothing."""
    device = run.objective.device
    if device.type != "cuda":
        return
    import torch

    peaks = CardPeaks(device.index or 0)
    plan = plan_memory(settings, shape)
    name = torch.cuda.get_device_name(device)
    run.bus.subscribe(PeakWatch(run, plan.by_phase, peaks, name, Corrections(CARDS_FILE)))
    run.bus.subscribe(SpillWatch(run, peaks.fullness))


@dataclass
class PeakWatch:
    """Measures the peak of training and of sampling once each, and reports both beside the plan.

    Attributes:
        run: what is measured. A run that had to reduce its memory use is not learned from.
        by_phase: planned tensors by phase, uncorrected, in GB.
        peaks: the GPU's counters.
        card: its name.
        corrections: what the plan uses, and where readings are kept.
    """

    run: Run
    by_phase: Mapping[str, float]
    peaks: CardPeaks
    card: str
    corrections: Corrections
    _steps: int = 0
    _reported: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._known = self.corrections.overhead(self.card) or ON_CARD

    def __call__(self, event: Event) -> None:
        """Measure when the event is the right moment."""
        if isinstance(event, PhaseChanged):  # samples or a pause: measure again from here
            self.peaks.reset()
            self._steps = min(self._steps, 1)
        elif isinstance(event, StepDone):
            self._steps += 1
            if self._steps == 1:
                self.peaks.reset()
            elif self._steps == MEASURED_STEP and "training" not in self._reported:
                self._report(event.step, "training", max(self.by_phase.get(phase, 0.0) for phase in TRAINING_PHASES))
        elif isinstance(event, SamplesMade) and "training" in self._reported and "sampling" not in self._reported:
            self._report(event.step, "sampling", self.by_phase.get("sampling", 0.0))

    def _report(self, step: int, what: Literal["training", "sampling"], planned_gb: float) -> None:
        if self.run.state.checkpointing or self.run.state.at_once:
            return
        reading = self.peaks.read(planned_gb)
        self._reported.add(what)
        low, expected, high = self._known.range_of(self._known.allocated * planned_gb)
        context = self._known.context_gb[1] if reading.context_gb is None else reading.context_gb
        self.run.bus.emit(MemoryMeasured(step, what, expected, low, high, reading.reserved_gb + context))
        if what == "training":
            self.corrections.add(self.card, reading)


@dataclass(frozen=True)
class StepReading:
    """How long a step took, and the used share of the GPU's memory then."""

    seconds: float
    fullness: float


def spill_slowdown(readings: Sequence[StepReading]) -> float | None:
    """By which factor steps have slowed down, if that looks like a spill; otherwise None.

    Drivers on Windows use system memory when the GPU's is full, instead of letting an allocation fail. Nothing reports
    that; the run continues, several times slower.

    Args:
        readings: of the last steps in order, all under the same conditions.
    """
    before, recent = readings[:-RECENT_STEPS], readings[-RECENT_STEPS:]
    if not before or min(reading.fullness for reading in recent) < FULL:
        return None
    if len(before) < STEPS_BEFORE:
        before = [reading for reading in before if reading.fullness < FULL]
        if len(before) < EARLY_STEPS:
            return None
    usual_seconds = median(reading.seconds for reading in before)
    factor = median(reading.seconds for reading in recent) / max(usual_seconds, 1e-9)
    return factor if factor >= SLOW_FACTOR else None


def spill_text(readings: Sequence[StepReading]) -> str:
    """What looks like a spill in the readings so far, in a sentence; empty if nothing does."""
    if readings and readings[-1].fullness > 1:
        return "PyTorch holds more memory than the GPU has: the driver is using system memory instead, which is slow."
    factor = spill_slowdown(readings)
    if factor is None:
        return ""
    text = f"Steps take {factor:.1f} times as long as before and the GPU memory is full"
    return f"{text}: the driver is probably using system memory instead."


@dataclass
class SpillWatch:
    """Warns once when a run begins to use system memory in place of the GPU's.

    Attributes:
        run: whose steps are timed. Time between steps in which anything else happened does not count.
        fullness: reads the used share of the GPU's memory.
        clock: seconds.
    """

    run: Run
    fullness: Callable[[], float]
    clock: Callable[[], float] = time.monotonic
    _readings: deque[StepReading] = field(default_factory=lambda: deque(maxlen=KEPT_STEPS))
    _conditions: tuple[object, ...] = ()
    _step_at: float | None = None
    _last_read: tuple[float, float] = (-CARD_SECONDS, 0.0)
    _has_warned: bool = False
    _most_images: int = 0

    def __call__(self, event: Event) -> None:
        """Time a step."""
        if not isinstance(event, StepDone):
            if not isinstance(event, MetricsLogged):
                self._step_at = None
            return
        now, before = self.clock(), self._step_at
        self._step_at = now
        self._most_images = max(self._most_images, event.images)
        conditions = (self.run.state.checkpointing, self.run.state.at_once, self._most_images)
        if conditions != self._conditions:  # steps are slower for another reason
            self._conditions = conditions
            self._readings.clear()
        if before is None or self._has_warned or event.images < self._most_images:  # a short batch takes less time
            return
        self._readings.append(StepReading(now - before, self._read_fullness(now)))
        if what := spill_text(tuple(self._readings)):
            self._has_warned = True
            self.run.bus.emit(Warned(event.step, f"{what} {SPILL_FIX}"))

    def _read_fullness(self, now: float) -> float:
        is_early = len(self._readings) < STEPS_BEFORE + RECENT_STEPS
        if is_early or now - self._last_read[0] >= CARD_SECONDS:
            self._last_read = now, self.fullness()
        return self._last_read[1]
