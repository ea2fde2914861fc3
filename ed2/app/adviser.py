"""What validation says of a run, in plain words: learning, flat, unstable, or memorising its images.

The rule, also in docs/page.md. V is the validation loss, T the loss of training images at the same fixed noise
(`stabilize_training_loss`), both without the randomness of the training loss. A change counts from the *margin* on: a
tenth of what V has fallen from the first validation to its lowest, and at least 0.5 % of the lowest.

- unstable: V is more than 10 % above its first value, and so is T if it is measured.
- memorising since step N, the step of the lowest V: the last two V are above the lowest by the margin, and T has fallen
  since step N. Without T the last three V have to be above it by twice the margin.
- flat: over the last five validations neither V nor T has changed by more than 0.5 %.
- learning: anything else, from the third validation on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ed2.app.snapshot import Point, RunSnapshot
from ed2.curve_names import LOSS_STABILIZED, LOSS_VAL
from ed2.text import counted

RunVerdict = Literal["off", "early", "learning", "flat", "unstable", "memorising"]
MIN_VALIDATIONS = 3
UNSTABLE = 1.1
SHARE, LEAST = 0.1, 0.005
"""The margin, as a share of the fall of V and of its lowest value."""
FLAT_COUNT, FLAT = 5, 0.005

UNVALIDATED = "Without validation, learning and memorising look alike: the training loss falls either way."
HEADLINES: dict[RunVerdict, tuple[str, str]] = {
    "off": ("No validation", "No validation"),
    "early": ("Too early to tell", "Too few validations to tell"),
    "learning": ("Learning", "No sign of memorising"),
    "flat": ("Flat: hardly anything changes any more", "Flat: hardly anything changed at the end"),
    "unstable": ("Unstable: it gets worse than it began", "Unstable: it got worse than it began"),
    "memorising": ("Starting to memorise since step {since:,}", "Began to memorise at step {since:,}"),
}
"""While the run is in progress, and once it is over."""
ADVICE: dict[RunVerdict, tuple[str, str]] = {
    "off": (UNVALIDATED, UNVALIDATED),
    "early": ("It takes {needed} in all to say more.", "It takes {needed}; in the next run, validate more often."),
    "learning": (
        "The loss on images that are not trained on has just reached a new low.",
        "The loss on images that are not trained on fell until the end: more epochs may still improve the model.",
    ),
    "flat": (
        "If the samples do not show what you want yet, raise the learning rate; otherwise you can stop.",
        "If the samples do not show what you want, raise the learning rate of the next run.",
    ),
    "unstable": (
        "The learning rate is probably too high. Stop, lower it by a factor of 3, and start again.",
        "The learning rate was probably too high. Lower it by a factor of 3, and start again.",
    ),
    "memorising": (
        "The loss on images that are not trained on rises, while that of training images falls: the model memorises "
        "these images. Use the checkpoint nearest to step {since:,}, or add images.",
        "The loss on images that are not trained on rose, while that of training images fell: the model memorised "
        "these images. Use the checkpoint nearest to step {since:,}, or add images.",
    ),
}
NO_SIGN = "Only a lasting rise, while that of training images falls, would be a sign of memorising."
PAST_LOWEST = (
    f"The loss on images that are not trained on was lowest {{ago}} ago. {NO_SIGN}",
    f"The loss on images that are not trained on was lowest {{ago}} before the end. {NO_SIGN}",
)
"""Instead, where the last validation was not the lowest."""
WITHOUT_T = "Turn on “Stabilize training loss” to be sure: only the two curves together show it."


@dataclass(frozen=True)
class Judgement:
    """What to think of a run.

    Attributes:
        since: the step that memorising began at; None otherwise.
        best: the step and loss of the best validation; None without one.
    """

    verdict: RunVerdict
    headline: str
    text: str
    since: int | None = None
    best: tuple[int, float] | None = None


def advise(shown: RunSnapshot) -> Judgement:
    """What the curves of a run say."""
    curves = [shown.curves.get(name) for name in (LOSS_VAL, LOSS_STABILIZED)]
    validation, stable = (curve.points if curve else () for curve in curves)
    return advise_on(validation, stable, is_over=not shown.is_active and not shown.elsewhere)


def advise_on(validation: Sequence[Point], stable: Sequence[Point] = (), *, is_over: bool = False) -> Judgement:
    """What two curves say: V, and T unless that is not measured."""
    verdict, since, best = _verdict(validation, stable), None, None
    headline, advice = HEADLINES[verdict][is_over], ADVICE[verdict][is_over]
    if validation:
        lowest = min(validation, key=lambda point: point.low)
        best = (lowest.step, lowest.low)
        num_since = sum(point.step > lowest.step for point in validation)
        if verdict == "learning" and num_since:
            advice = PAST_LOWEST[is_over].format(ago=counted(num_since, "validation"))
        if verdict == "memorising":
            since = lowest.step
    text = advice.format(since=since, needed=counted(MIN_VALIDATIONS, "validation"))
    if verdict == "memorising" and not stable:
        text = f"{text} {WITHOUT_T}"
    return Judgement(verdict, headline.format(since=since), text, since, best)


def _verdict(validation: Sequence[Point], stable: Sequence[Point]) -> RunVerdict:
    if not validation:
        return "off"
    if len(validation) < MIN_VALIDATIONS:
        return "early"
    if _is_unstable(validation) and (not stable or _is_unstable(stable)):
        return "unstable"
    if _is_memorising(validation, stable, min(validation, key=lambda point: point.low)):
        return "memorising"
    if _is_flat(validation) and (not stable or _is_flat(stable)):
        return "flat"
    return "learning"


def _is_unstable(curve: Sequence[Point]) -> bool:
    return curve[-1].mean > UNSTABLE * curve[0].mean


def _is_memorising(validation: Sequence[Point], stable: Sequence[Point], lowest: Point) -> bool:
    margin = max(SHARE * (validation[0].mean - lowest.low), LEAST * lowest.low)
    times, count = (1, 2) if stable else (2, 3)
    last = [point for point in validation if point.step > lowest.step][-count:]
    if len(last) < count or any(point.mean <= lowest.low + times * margin for point in last):
        return False
    return not stable or stable[-1].mean < _at(stable, lowest.step)


def _at(curve: Sequence[Point], step: int) -> float:
    """The value nearest to a step."""
    return min(curve, key=lambda point: abs(point.step - step)).mean


def _is_flat(curve: Sequence[Point]) -> bool:
    last = [point.mean for point in curve[-FLAT_COUNT:]]
    return len(last) == FLAT_COUNT and max(last) - min(last) <= FLAT * abs(min(last))
