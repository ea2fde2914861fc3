"""The table of the results, with their spread and what stands out from chance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import mean, variance

from scripts.recipe_trials.trials import BASE, RECIPES, REFERENCE, Recipe

LEAST_SEEDS = 3
LEAST_KEPT = 0.95
CEILING, UNTRAINED = "ceiling of the VAE", "base model, untrained"
COLUMNS = {"shown": CEILING, "held_out": CEILING, "backgrounds": UNTRAINED, "objects": UNTRAINED}
"""What is in the table, with the row that it is a share of."""
KEPT = ("backgrounds", "objects")
HEADING = (
    "| what differs from the base recipe | steps | taught | on new backgrounds | backgrounds kept | objects kept | |\n"
    "|---|---:|---|---|---|---|---|"
)
Line = Mapping[str, object]


@dataclass(frozen=True)
class Row:
    """A recipe with the shares that each seed gave.

    Attributes:
        shares: by column, one for each seed.
        steps: optimizer steps of one training.
    """

    recipe: Recipe
    steps: int
    shares: Mapping[str, Sequence[float]]

    def mean(self, column: str) -> float:
        """Over the seeds."""
        return mean(self.shares[column])

    @property
    def num_seeds(self) -> int:
        """How often it was trained."""
        return len(self.shares["shown"])


def rows_of(lines: Sequence[Line]) -> list[Row]:
    """Every recipe with enough seeds, in the order of the trials."""
    fixed = {str(line["row"]): _scores(line) for line in lines if line["row"] in (CEILING, UNTRAINED)}
    if len(fixed) < len({CEILING, UNTRAINED}):
        return []
    rows = []
    for recipe in RECIPES:
        own = {str(line["seed"]): line for line in lines if line["key"] == recipe.key()}
        if len(own) >= LEAST_SEEDS:
            shares = {
                column: [_scores(line)[column] / fixed[whole][column] for line in own.values()]
                for column, whole in COLUMNS.items()
            }
            rows.append(Row(recipe, int(str(next(iter(own.values()))["steps"])), shares))
    return rows


def noise(rows: Sequence[Row], column: str) -> float:
    """The standard deviation between seeds of one recipe, pooled over all rows; 0 without rows."""
    degrees = sum(row.num_seeds - 1 for row in rows)
    squares = sum(variance(row.shares[column]) * (row.num_seeds - 1) for row in rows)
    return sqrt(squares / degrees) if degrees else 0.0


def limit_of(rows: Sequence[Row], column: str) -> float:
    """From which difference on two means of three seeds differ by more than chance: two standard errors of it."""
    return 2 * noise(rows, column) * sqrt(2 / LEAST_SEEDS)


def meets_goal(row: Row, reference: Row, limit: float) -> bool:
    """Whether it teaches as the demo of 600 steps did, but for chance, and keeps 95 % of either kind."""
    is_taught = row.mean("shown") > reference.mean("shown") - limit
    return is_taught and all(row.mean(column) >= LEAST_KEPT for column in KEPT)


def results_text(lines: Sequence[Line]) -> str:
    """The generated part of the page: the table, the limits and what stands out, as Markdown.

    Raises:
        ValueError: the reference or the base recipe has too few seeds to compare with.
    """
    rows = rows_of(lines)
    named = {row.recipe.name: row for row in rows}
    if REFERENCE not in named or BASE not in named:
        raise ValueError(f"“{REFERENCE}” and “{BASE}” need {LEAST_SEEDS} seeds each. Train them first.")
    limits = {column: limit_of(rows, column) for column in COLUMNS}
    table = [HEADING, *(_line(row, named, limits) for row in rows)]
    sentences = [_fixed_sentence(lines), _limit_sentence(rows, limits)]
    return "\n".join([*table, "", *sentences])


def page_with_results(page: Path, lines: Sequence[Line]) -> str:
    """The page with its generated part made anew."""
    text = page.read_text(encoding="utf-8")
    pattern = r"(<!-- results -->\n).*?(<!-- end -->)"
    generated = results_text(lines)
    return re.sub(pattern, lambda found: f"{found[1]}\n{generated}\n\n{found[2]}", text, flags=re.DOTALL)


def _line(row: Row, named: Mapping[str, Row], limits: Mapping[str, float]) -> str:
    base = named[BASE]
    cells = [row.recipe.name, str(row.steps)]
    for column in COLUMNS:
        values = row.shares[column]
        cell = f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        differs = abs(row.mean(column) - base.mean(column)) > limits[column]
        cells.append(f"**{cell}**" if differs and row is not base else cell)
    cells.append("goal" if meets_goal(row, named[REFERENCE], limits["shown"]) else "")
    return f"| {' | '.join(cells)} |"


def _fixed_sentence(lines: Sequence[Line]) -> str:
    fixed = {str(line["row"]): _scores(line) for line in lines if line["row"] in (CEILING, UNTRAINED)}
    ceiling, base = fixed[CEILING], fixed[UNTRAINED]
    return (
        f"True drawings that pass through the VAE score {ceiling['shown']:.2f} on shown and {ceiling['held_out']:.2f} "
        f"on new backgrounds, and {ceiling['objects']:.0%} of other objects are right in them: these are the ceilings. "
        f"The base model scores {base['shown']:.2f} and {base['held_out']:.2f}; {base['backgrounds']:.0%} of its "
        f"backgrounds and {base['objects']:.0%} of its objects are right."
    )


def _limit_sentence(rows: Sequence[Row], limits: Mapping[str, float]) -> str:
    shown, held_out, backgrounds, objects = (f"{limits[column]:.2f}" for column in COLUMNS)
    return (
        f"Bold is what differs from the base recipe by more than chance: by {shown}, {held_out}, {backgrounds} and "
        f"{objects} in these columns, two standard errors of a difference, from the spread between seeds in all "
        f"{len(rows)} rows. Of twenty cells without any effect, one is bold by chance."
    )


def _scores(line: Line) -> Mapping[str, float]:
    scores = line["scores"]
    if not isinstance(scores, Mapping):
        raise ValueError(f"This result has no scores: {line}")
    return scores
