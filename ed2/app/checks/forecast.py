"""Estimates for a run: steps, time and disk space, from the last check of the images."""

from dataclasses import replace
from pathlib import Path

from ed2.app.checks.cache_space import cache_lines
from ed2.app.checks.check import CheckResult, check_dataset, with_planned_optimizer
from ed2.app.checks.space import disk_lines
from ed2.app.checks.suitability import RunLength, prompt_notes, rate_lines, unsuitable
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
from ed2.text import duration
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
CHECK_FIRST = "Press Check in the Dataset tab to see the number of steps."


def forecast(settings: Settings, checked: CheckResult | None, vram_gb: float | None = None) -> list[str]:
    """Sentences on steps and disk; the steps are known once these images were checked.

    Args:
        settings: of the run.
        checked: the last check of the images.
        vram_gb: memory of the GPU to plan for; None plans for the one in this computer.
    """
    lines = _steps(settings, checked, Card.of_size(vram_gb) if vram_gb else card_for(settings.run.device))
    sizes = model_sizes(settings)
    lines += disk_lines(with_planned_optimizer(settings, vram_gb), sizes)
    lines += cache_lines(settings, sizes, checked.dataset.examples if checked else ())
    family = FACTS[sizes.family]
    lines += map(str, [*nothing_trained(settings, family), *sizes.problems])
    return lines + without_effect(settings, family)


def _steps(settings: Settings, checked: CheckResult | None, card: Card) -> list[str]:
    if checked is None or checked.settings.data.data_root != settings.data.data_root:
        return [CHECK_FIRST]
    resolution = settings.data.resolution
    moved = tuple(replace(e, bucket=nearest_bucket(e.size, resolution)) for e in checked.dataset.examples)
    plan = check_dataset(settings, replace(checked.dataset, examples=moved)).plan
    planner = plan.planner(moved)
    total, one = plan.total_steps(planner), planner.steps(0)
    text = f"{len(moved):,} images: {one:,} steps per epoch, {total:,} steps in {settings.run.max_epochs:,} epochs."
    if speed := measured_speed(settings, card):
        time = duration(settings.run.max_epochs * len(moved) / speed)
        text = f"{text} About {time} at the speed of the last run like it."
    length = RunLength(total, len(moved), settings.run.max_epochs, speed)
    sizes = model_sizes(settings)
    notes = map(str, unsuitable(settings, sizes, length))
    return [
        text,
        *rate_lines(settings, FACTS[sizes.family], total),
        *notes,
        *batch_notes(planner),
        *prompt_notes(settings),
    ]


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
