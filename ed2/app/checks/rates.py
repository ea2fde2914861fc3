"""The learning rate of each trained network over a run, in words and as a curve. Needs no torch."""

from dataclasses import dataclass
from typing import Any

from ed2.models.families.facts import FamilyFacts, PartFacts
from ed2.settings.schema import PRODIGY_LR, TEXT_ENCODER_SHARE, Settings
from ed2.training.schedules import Schedule, make_schedule

WARMUP, DECAY = "lr_warmup_steps", "lr_decay_steps"
LEAST_FACTOR = 0.05
"""An update below this share of the learning rate changes next to nothing."""
CURVE_POINTS = 100


@dataclass(frozen=True)
class RateCurve:
    """The learning rate of a network over a run: its course in words, and as pairs of step and rate."""

    title: str
    course: str
    points: tuple[tuple[int, float], ...]


def rate_curves(settings: Settings, family: FamilyFacts, total_steps: int) -> list[RateCurve]:
    """The learning rate of each trained network, at about a hundred steps and where its course changes."""
    curves = []
    for part in trained_networks(settings, family):
        schedule, rate = schedule_of(settings, part, total_steps), rate_of(settings, part)
        steps = {round(place * (total_steps - 1) / CURVE_POINTS) for place in range(CURVE_POINTS + 1)}
        steps |= {step for step in (schedule.warmup_steps, schedule.decay_steps) if 0 <= step < total_steps}
        course = in_words(schedule, rate, total_steps)
        curves.append(RateCurve(part.title, course, tuple((step, rate * schedule(step)) for step in sorted(steps))))
    return curves


def trained_networks(settings: Settings, family: FamilyFacts) -> list[PartFacts]:
    """The networks of a model that are trained."""
    return [family.part(name) for name in settings.model.trained_parts(family)]


def rate_of(settings: Settings, part: PartFacts) -> float:
    """The learning rate of a network: as set, else the usual one for the method and the optimizer."""
    common = settings.optimizer
    if settings.optimizer_of(part, on_card=False) != "prodigy" or common.has_lr_for(part.name):
        return common.lr_of(part.name, settings.model.method)
    if part.is_text_encoder:
        return PRODIGY_LR * TEXT_ENCODER_SHARE
    return PRODIGY_LR


def schedule_of(settings: Settings, part: PartFacts, total_steps: int) -> Schedule:
    """The learning rate schedule of a network."""
    values: dict[str, Any] = settings.flat()
    curve, warmup, decay = (values[setting_for(settings, part, name)] for name in ("lr_scheduler", WARMUP, DECAY))
    return make_schedule(curve, warmup, decay, total_steps)


def setting_for(settings: Settings, part: PartFacts, name: str) -> str:
    """The setting that holds for a network: that of text encoders if it is one and this is set, else the common one."""
    own = f"text_encoder_{name}"
    if not part.is_text_encoder or settings.flat()[own] is None:
        return name
    return own


def in_words(schedule: Schedule, rate: float, total_steps: int) -> str:
    """The course of a learning rate over a run: "rises to 1e-06 at step 20, then falls to 0 at step 1,000"."""
    warmup, end = schedule.warmup_steps, schedule.decay_steps
    falls = schedule.curve(1.0) < LEAST_FACTOR
    if warmup >= total_steps and warmup > 1:
        return f"rises from {rate / warmup:.2g} to {rate * total_steps / warmup:.2g} at the last step"
    start = f"rises to {rate:g} at step {warmup:,}, then " if warmup > 1 else ""
    if not falls:
        return f"{start}stays at {rate:g}" if start else f"{rate:g} throughout"
    if end <= warmup:
        return f"{start}is 0 from step {warmup + 1:,} on"
    if end < total_steps:
        return f"{start or f'{rate:g} at first, '}falls, and is 0 from step {end + 1:,} on"
    if end > total_steps:
        last = rate * schedule(total_steps - 1)
        return f"{start or f'{rate:g} at first, '}falls to {last:.2g} at the last step"
    return f"{start or f'{rate:g} at first, '}falls to 0 at the end"
