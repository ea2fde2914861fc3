"""What a run would come to: steps and disk, from what the last check of the pictures has found."""

from dataclasses import replace

from ed2.app.check import Checked, disk_lines, looked_at
from ed2.app.preflight import model_sizes
from ed2.data.buckets import nearest
from ed2.settings.checks import without_effect
from ed2.settings.schema import Settings

CHECK_FIRST = "Press Check in the tab Dataset to see the number of steps."


def forecast(settings: Settings, checked: Checked | None) -> list[str]:
    """Sentences on steps and disk; the steps are known once these pictures were checked."""
    lines = [_steps(settings, checked)]
    sizes = model_sizes(settings)
    lines += disk_lines(settings, sizes)
    return lines + [str(problem) for problem in sizes.problems] + without_effect(settings)


def _steps(settings: Settings, checked: Checked | None) -> str:
    if checked is None or checked.settings.data.data_root != settings.data.data_root:
        return CHECK_FIRST
    resolution = settings.data.resolution
    moved = tuple(replace(e, bucket=nearest(e.size, resolution)) for e in checked.dataset.examples)
    plan = looked_at(settings, replace(checked.dataset, examples=moved)).plan
    planner = plan.planner(moved)
    total, one = plan.total_steps(planner), planner.steps(0)
    return f"{len(moved):,} pictures: {one:,} steps an epoch, {total:,} steps in {settings.run.max_epochs:,} epochs."
