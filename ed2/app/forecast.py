"""What a run would come to: steps and disk, from what the last check of the pictures has found."""

import json
from dataclasses import replace
from pathlib import Path

from ed2.app.check import Checked, as_on_card, looked_at
from ed2.app.preflight import model_sizes
from ed2.app.replay import told_events
from ed2.app.reporters.texts import SPEED, duration
from ed2.app.space import disk_lines
from ed2.data.buckets import nearest
from ed2.events import MetricsLogged
from ed2.settings.checks import without_effect
from ed2.settings.schema import Settings

MAX_RUNS = 30
SAME_SPEED = ("resolution", "batch_size", "grad_accum", "gradient_checkpointing", "amp", "device",
              "disable_unet_training", "disable_textenc_training", "optimizer", "useadam8bit")  # fmt: skip
"""Settings that must be the same for the speed of an earlier run to tell something."""
CHECK_FIRST = "Press Check in the tab Dataset to see the number of steps."


def forecast(settings: Settings, checked: Checked | None, vram_gb: float | None = None) -> list[str]:
    """Sentences on steps and disk; the steps are known once these pictures were checked.

    Args:
        settings: of the run.
        checked: the last check of the pictures.
        vram_gb: size of the card to plan for; None is the one that is here.
    """
    lines = [_steps(settings, checked)]
    sizes = model_sizes(settings)
    lines += disk_lines(as_on_card(settings, vram_gb), sizes)
    return lines + [str(problem) for problem in sizes.problems] + without_effect(settings)


def _steps(settings: Settings, checked: Checked | None) -> str:
    if checked is None or checked.settings.data.data_root != settings.data.data_root:
        return CHECK_FIRST
    resolution = settings.data.resolution
    moved = tuple(replace(e, bucket=nearest(e.size, resolution)) for e in checked.dataset.examples)
    plan = looked_at(settings, replace(checked.dataset, examples=moved)).plan
    planner = plan.planner(moved)
    total, one = plan.total_steps(planner), planner.steps(0)
    text = f"{len(moved):,} pictures: {one:,} steps an epoch, {total:,} steps in {settings.run.max_epochs:,} epochs."
    speed = measured_speed(settings)
    if speed is None:
        return text
    return (
        f"{text} About {duration(settings.run.max_epochs * len(moved) / speed)} at the speed of the last run like it."
    )


def measured_speed(settings: Settings) -> float | None:
    """Pictures a second of the newest run here with the same settings, as far as they matter; None without one."""
    runs = sorted(Path(settings.logging.logdir).glob("*/settings.json"), key=lambda file: file.stat().st_mtime)
    wanted = settings.flat()
    for file in reversed(runs[-MAX_RUNS:]):
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if all(before.get(name) == wanted[name] for name in SAME_SPEED):
            metrics = [event for _, event in told_events(file.parent) if isinstance(event, MetricsLogged)]
            speeds = [event.values[SPEED] for event in metrics if event.values.get(SPEED, 0) > 0]
            if speeds:
                return sorted(speeds)[len(speeds) // 2]
    return None
