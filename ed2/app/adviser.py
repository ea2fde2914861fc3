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

from ed2.app.curve import Point
from ed2.app.snapshot import RunSnapshot
from ed2.curve_names import LOSS_STABILIZED, LOSS_VAL
from ed2.text import counted

Verdict = Literal["off", "early", "learning", "flat", "unstable", "memorising"]
MIN_VALIDATIONS = 3
UNSTABLE = 1.1
SHARE, LEAST = 0.1, 0.005
"""The margin, as a share of the fall of V and of its lowest value."""
FLAT_COUNT, FLAT = 5, 0.005

HEADLINES: dict[Verdict, str] = {
    "off": "Nothing is validated",
    "early": "Too early to tell",
    "learning": "Learning",
    "flat": "Flat: hardly anything changes any more",
    "unstable": "Unstable: it gets worse than it began",
    "memorising": "Starting to memorise since step {since:,}",
}
ADVICE: dict[Verdict, str] = {
    "off": "Without validation nothing can tell learning from memorising: the training loss falls in both.",
    "early": "It takes {needed} in all to say more.",
    "learning": "The loss on images that are not trained on still falls, or has just reached its lowest.",
    "flat": "If the samples do not show what you want yet, raise the learning rate; otherwise you can stop.",
    "unstable": "The learning rate is probably too high. Stop, lower it by a factor of 3, and start again.",
    "memorising": (
        "The loss on images that are not trained on rises, while that of training images falls: the model learns these "
        "images by heart. Use the checkpoint nearest to step {since:,}, or add images."
    ),
}
WITHOUT_T = "Turn on “Stabilize training loss” to be sure: only the two curves together show it."


@dataclass(frozen=True)
class Judgement:
    """What to think of a run.

    Attributes:
        since: the step that memorising began at; None otherwise.
        best: the step and loss of the best validation; None without one.
    """

    verdict: Verdict
    headline: str
    text: str
    since: int | None = None
    best: tuple[int, float] | None = None


def advise(shown: RunSnapshot) -> Judgement:
    """What the curves of a run say."""
    curves = [shown.curves.get(name) for name in (LOSS_VAL, LOSS_STABILIZED)]
    validation, stable = (curve.points if curve else () for curve in curves)
    return advise_on(validation, stable)


def advise_on(validation: Sequence[Point], stable: Sequence[Point] = ()) -> Judgement:
    """What two curves say.

    Args:
        validation: V by step.
        stable: T by step; empty if it is not measured.
    """
    if not validation:
        return _advice("off")
    lowest = min(validation, key=lambda point: point.low)
    best = (lowest.step, lowest.low)
    if len(validation) < MIN_VALIDATIONS:
        return _advice("early", best=best)
    if _is_unstable(validation) and (not stable or _is_unstable(stable)):
        return _advice("unstable", best=best)
    if _is_memorising(validation, stable, lowest):
        return _advice("memorising", since=lowest.step, best=best, note="" if stable else WITHOUT_T)
    if _is_flat(validation) and (not stable or _is_flat(stable)):
        return _advice("flat", best=best)
    return _advice("learning", best=best)


def _advice(
    verdict: Verdict, *, since: int | None = None, best: tuple[int, float] | None = None, note: str = ""
) -> Judgement:
    needed = counted(MIN_VALIDATIONS, "validation")
    text = f"{ADVICE[verdict].format(since=since, needed=needed)} {note}".rstrip()
    return Judgement(verdict, HEADLINES[verdict].format(since=since), text, since, best)


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
