"""Estimates for a run: steps, time, disk space and learning rate, from the last check of the images."""

from dataclasses import dataclass, replace
from pathlib import Path

from ed2.app.checks.cache_space import cache_lines
from ed2.app.checks.check import CheckResult, check_dataset, with_planned_optimizer
from ed2.app.checks.rates import RateCurve, rate_curves
from ed2.app.checks.space import disk_forecast, disk_lines
from ed2.app.checks.suitability import RunLength, prompt_notes, unsuitable
from ed2.app.preflight import model_sizes
from ed2.app.reporters.jsonl import read_events
from ed2.curve_names import IMAGES_PER_SECOND
from ed2.data.buckets import nearest_bucket
from ed2.data.report import batch_notes
from ed2.events import MetricsLogged, RunStarted
from ed2.models.families.facts import FACTS
from ed2.settings.checks import nothing_trained
from ed2.settings.effect import without_effect
from ed2.settings.schema import Settings
from ed2.small_files import read_object
from ed2.vram.card import Card, card_for

MAX_RUNS = 30
SAME_SPEED = (
    "resolution",
    "batch_size",
    "grad_accum",
    "gradient_checkpointing",
    "amp",
    "device",
    "disable_unet_training",
    "disable_textenc_training",
    "disable_textenc_2_training",
    "optimizer",
    "useadam8bit",
    "cache_latents",
)
"""Settings that must be equal for the speed of an earlier run to be comparable."""
LIKE_IT = "at the speed of the last run like it"
CHECK_FIRST = "Press Check in the Dataset tab to see the number of steps."


@dataclass(frozen=True)
class Forecast:
    """What a run comes to.

    Attributes:
        steps: of the whole run; None until its images were checked.
        course: a sentence on the steps, or on how to get to know them.
        seconds: of training; None if no run like it was measured on this GPU.
        checkpoint_bytes: on the disk, of one checkpoint.
        free_bytes: on that disk.
        rates: the learning rate of each network over the run; empty without steps.
        notes: sentences on disk space, and on settings that are probably not meant.
    """

    course: str
    steps: int | None = None
    seconds: float | None = None
    checkpoint_bytes: int = 0
    free_bytes: int = 0
    rates: tuple[RateCurve, ...] = ()
    notes: tuple[str, ...] = ()


def forecast(settings: Settings, checked: CheckResult | None, vram_gb: float | None = None) -> Forecast:
    """Estimate a run; its steps are known once these images were checked.

    Args:
        settings: of the run.
        checked: the last check of the images.
        vram_gb: memory of the GPU to plan for; None plans for the one in this computer.
    """
    sizes = model_sizes(settings)
    family, planned = FACTS[sizes.family], with_planned_optimizer(settings, vram_gb)
    disk, (_, *of_disk) = disk_forecast(planned, sizes), disk_lines(planned, sizes)
    of_cache = cache_lines(settings, sizes, checked.dataset.examples if checked else ())
    notes = [*of_disk, *of_cache, *map(str, [*nothing_trained(settings, family), *sizes.problems])]
    found = Forecast(
        CHECK_FIRST,
        checkpoint_bytes=disk["checkpoint_bytes"],
        free_bytes=disk["free_bytes"],
        notes=(*notes, *without_effect(settings, family)),
    )
    if checked is None or checked.settings.data.data_root != settings.data.data_root:
        return found
    return _with_steps(found, settings, checked, Card.of_size(vram_gb) if vram_gb else card_for(settings.run.device))


def _with_steps(found: Forecast, settings: Settings, checked: CheckResult, card: Card) -> Forecast:
    """The forecast with what follows from the images of a check."""
    resolution, epochs = settings.data.resolution, settings.run.max_epochs
    moved = tuple(replace(e, bucket=nearest_bucket(e.size, resolution)) for e in checked.dataset.examples)
    plan = check_dataset(settings, replace(checked.dataset, examples=moved)).plan
    planner = plan.planner(moved)
    total, one = plan.total_steps(planner), planner.steps(0)
    speed, sizes = measured_speed(settings, card), model_sizes(settings)
    family = FACTS[sizes.family]
    notes = [
        *map(str, unsuitable(settings, sizes, RunLength(total, len(moved), epochs, speed))),
        *batch_notes(planner),
        *prompt_notes(settings),
    ]
    return replace(
        found,
        course=f"{len(moved):,} images: {one:,} steps per epoch, {total:,} steps in {epochs:,} epochs.",
        steps=total,
        seconds=epochs * len(moved) / speed if speed else None,
        rates=tuple(rate_curves(settings, family, total)),
        notes=(*notes, *found.notes),
    )


def measured_speed(settings: Settings, card: Card) -> float | None:
    """Images per second of the newest run on the same GPU with comparable settings.

    None if there is no such run.
    """
    runs = sorted(Path(settings.logging.logdir).glob("*/settings.json"), key=lambda file: file.stat().st_mtime)
    wanted, usual = settings.flat(), Settings().flat()
    for file in reversed(runs[-MAX_RUNS:]):
        try:
            before = read_object(file)
        except (OSError, ValueError):
            continue
        if all(before.get(name, usual[name]) == wanted[name] for name in SAME_SPEED):
            speeds = _speeds(file.parent, card)
            if speeds:
                return sorted(speeds)[len(speeds) // 2]
    return None


def _speeds(run_dir: Path, card: Card) -> list[float]:
    """The speeds that a run logged on this GPU; it may have been resumed on another."""
    speeds, is_same = [], False
    for _, event in read_events(run_dir):
        if isinstance(event, RunStarted):
            is_same = event.device.startswith(f"{card.name} in ")
        elif isinstance(event, MetricsLogged) and is_same and event.values.get(IMAGES_PER_SECOND, 0) > 0:
            speeds.append(event.values[IMAGES_PER_SECOND])
    return speeds
