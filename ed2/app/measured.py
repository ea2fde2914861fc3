"""What runs measure on this computer: GPU memory, which plans learn from, a spill of it, and speed, for forecasts."""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter

from ed2.app.preflight import ModelSizes
from ed2.app.user_files import UserFiles
from ed2.curve_names import IMAGES_PER_SECOND
from ed2.events import (
    Event,
    MemoryMeasured,
    MetricsLogged,
    PhaseChanged,
    RunEnded,
    SamplesMade,
    StepDone,
    Warned,
)
from ed2.settings.files import PROGRAM_DIR
from ed2.settings.schema import Settings
from ed2.small_files import read_object
from ed2.vram.card import Card
from ed2.vram.overhead import KEPT, ON_CARD, Overhead, Reading, overhead_from
from ed2.vram.plan import plan_memory
from ed2.vram.sampler import CardPeaks
from ed2.vram.shapes import ModelShape

if TYPE_CHECKING:
    from ed2.training.state import Run

logger = logging.getLogger(__name__)

CARDS_FILE = PROGRAM_DIR / "user" / "cards.json"
SPEEDS_FILE = PROGRAM_DIR / "user" / "speeds.json"
MAX_SPEEDS = 200
"""Kinds of run whose speed is kept, the newest ones."""
ENOUGH = 3
"""Measurements after which a speed is kept, in case the run does not reach its end."""
SAME_SPEED = (
    "method",
    "resolution",
    "batch_size",
    "grad_accum",
    "num_processes",
    "gradient_checkpointing",
    "amp",
    "weights_dtype",
    "fused_backward",
    "disable_unet_training",
    "disable_textenc_training",
    "disable_textenc_2_training",
    "optimizer",
    "useadam8bit",
    "cache_latents",
)
"""Settings that must be equal for the speed of an earlier run to be comparable."""
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
_READINGS: TypeAdapter[dict[str, list[Reading]]] = TypeAdapter(dict[str, list[Reading]])


@dataclass(frozen=True)
class Corrections:
    """Memory readings of each GPU, by its name and the version of PyTorch, so that the next plans learn from them."""

    file: Path

    def overhead(self, card: str) -> Overhead | None:
        """The overhead that the readings of a GPU give; None without any."""
        return overhead_from(self._readings().get(_card_key(card), []))

    def add(self, card: str, reading: Reading) -> None:
        """Keep a reading; log one that cannot be written."""
        readings, key = self._readings(), _card_key(card)
        readings[key] = [*readings.get(key, []), reading][-KEPT:]
        _write(self.file, {name: list(map(asdict, found)) for name, found in readings.items()}, "GPU memory")

    def _readings(self) -> dict[str, list[Reading]]:
        try:
            return _READINGS.validate_python(read_object(self.file))
        except (OSError, ValueError):
            return {}


def _card_key(card: str) -> str:
    return f"{card}, PyTorch {version('torch')}"


@dataclass(frozen=True)
class Speeds:
    """Images per second by kind of run."""

    file: Path

    def of(self, settings: Settings, shape: ModelShape, device: str) -> float | None:
        """The speed of the newest run of this kind, in images per second; None if there was none."""
        speed = self._speeds().get(_key(settings, shape, device))
        return float(speed) if isinstance(speed, int | float) and 0 < speed < float("inf") else None

    def add(self, settings: Settings, shape: ModelShape, device: str, images_per_second: float) -> None:
        """Keep a speed; log one that cannot be written."""
        speeds, key = self._speeds(), _key(settings, shape, device)
        speeds.pop(key, None)
        speeds[key] = float(f"{images_per_second:.4g}")
        _write(self.file, dict(list(speeds.items())[-MAX_SPEEDS:]), "speed")

    def _speeds(self) -> dict[str, object]:
        try:
            return dict(read_object(self.file))
        except (OSError, ValueError):
            return {}


def measured_speed(settings: Settings, sizes: ModelSizes, card: Card) -> float | None:
    """Images per second of the newest run of this kind on the same device; None if there was none."""
    return Speeds(SPEEDS_FILE).of(settings, sizes.shape, card.name)


@dataclass
class SpeedWatch:
    """Keeps the median of the speeds that a run logs: after the first ones, and at its end."""

    settings: Settings
    shape: ModelShape
    device: str
    _logged: list[float] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Take note of a speed, and keep what was measured when the event is the right moment."""
        if isinstance(event, MetricsLogged) and event.values.get(IMAGES_PER_SECOND, 0) > 0:
            self._logged.append(event.values[IMAGES_PER_SECOND])
            if len(self._logged) == ENOUGH:
                self._keep()
        elif isinstance(event, RunEnded) and self._logged:
            self._keep()

    def _keep(self) -> None:
        Speeds(SPEEDS_FILE).add(self.settings, self.shape, self.device, median(self._logged))


def _key(settings: Settings, shape: ModelShape, device: str) -> str:
    """A kind of run: device, family, size of the denoiser, and settings."""
    values = settings.flat()
    return json.dumps([device, shape.family, shape.numbers("unet"), *(values[name] for name in SAME_SPEED)])


def _write(file: Path, content: Mapping[str, object], what: str) -> None:
    try:
        UserFiles(file.parent).write(file.name, json.dumps(content, indent=1))
    except OSError as error:
        logger.warning("Could not save the measured %s: %s.", what, error)


def watch_card(run: "Run", settings: Settings, shape: ModelShape) -> None:
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

    run: "Run"
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

    run: "Run"
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
