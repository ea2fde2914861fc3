"""Estimates for a run: steps, time, disk space and learning rate, from the last check of the images."""

from dataclasses import dataclass, replace

from ed2.app import measured
from ed2.app.checks.check import CheckResult, check_dataset, with_planned_optimizer
from ed2.app.checks.rates import RateCurve, rate_curves
from ed2.app.checks.space import cache_lines, disk_forecast, disk_lines
from ed2.app.checks.suitability import RunLength, prompt_notes, unsuitable
from ed2.app.preflight import ModelSizes, model_sizes
from ed2.data.buckets import nearest_bucket
from ed2.data.report import batch_notes
from ed2.models.families.facts import FACTS
from ed2.settings.checks import nothing_trained
from ed2.settings.effect import without_effect
from ed2.settings.schema import Settings
from ed2.vram.card import Card, card_for
from ed2.vram.shapes import shape_of

LIKE_IT = "without samples, at the speed of the last run like it"
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
    sizes = model_sizes(settings)
    speed, family = measured_speed(settings, sizes, card), FACTS[sizes.family]
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


def measured_speed(settings: Settings, sizes: ModelSizes, card: Card) -> float | None:
    """Images per second of the newest run of this kind on the same device; None if there was none."""
    return measured.Speeds(measured.SPEEDS_FILE).of(settings, shape_of(sizes.family, sizes.parameters), card.name)
