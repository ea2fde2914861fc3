"""The data of the charts that `charts.js` draws: a run's thinned curves in panels over one step axis."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ed2.app.snapshot import RunSnapshot, ThinnedCurve
from ed2.curve_names import (
    GRAD_NORM,
    GRAD_SCALE,
    IMAGES_PER_SECOND,
    LOSS,
    LOSS_EPOCH,
    LOSS_STABILIZED,
    LOSS_VAL,
    LR,
    VRAM,
)
from ed2.ui.html import escape

DIGITS = 6
OTHER_LOSS = "loss/"


@dataclass(frozen=True)
class Panel:
    """One chart: what it is called, and the names of its curves with their labels.

    Attributes:
        prefix: curves that begin with it and have no label are shown here too, under the rest of their name.
        has_log: whether it can have a logarithmic scale.
    """

    title: str
    labels: Mapping[str, str]
    prefix: str = ""
    has_log: bool = False
    is_main: bool = False


PANELS = (
    Panel(
        "Loss",
        {
            LOSS: "training",
            LOSS_VAL: "validation",
            LOSS_STABILIZED: "training at fixed noise",
            LOSS_EPOCH: "mean of the epoch",
        },
        prefix=OTHER_LOSS,
        has_log=True,
        is_main=True,
    ),
    Panel("Learning rate", {}, prefix=LR),
    Panel("Speed (images/s)", {IMAGES_PER_SECOND: "images/s"}),
    Panel("GPU memory (GB)", {VRAM: "peak"}),
    Panel("Gradient norm", {GRAD_NORM: "before clipping"}, has_log=True),
    Panel("Loss scale", {GRAD_SCALE: "loss scale"}, has_log=True),
)
SMOOTHED = (LOSS, IMAGES_PER_SECOND, GRAD_NORM)
"""Curves with a moving average."""


@dataclass(frozen=True)
class ChartRun:
    """One run in the charts.

    Attributes:
        label: what it is called beside other runs.
        samples: the steps that samples were drawn at; `saves` those of checkpoints.
    """

    curves: Mapping[str, ThinnedCurve]
    label: str = ""
    samples: Sequence[int] = ()
    saves: Sequence[int] = ()

    @classmethod
    def of(cls, shown: RunSnapshot, label: str = "") -> "ChartRun":
        """The run of a snapshot."""
        steps = sorted({one.step for one in shown.samples})
        return cls(shown.curves, label, samples=steps, saves=shown.saves)


def panels_of(names: Sequence[str]) -> list[dict[str, Any]]:
    """The panels for these curves, as `charts.js` takes them."""
    panels = []
    for panel in PANELS:
        known = {name: label for name, label in panel.labels.items() if name in names}
        if panel.prefix:
            known |= {name: name.removeprefix(panel.prefix) for name in names if _belongs(name, panel)}
        curves = [{"name": name, "label": label, "smooth": name in SMOOTHED} for name, label in known.items()]
        panels.append({"title": panel.title, "log": panel.has_log, "main": panel.is_main, "curves": curves})
    return panels


def _belongs(name: str, panel: Panel) -> bool:
    return name.startswith(panel.prefix) and name not in panel.labels


def points_json(curve: ThinnedCurve, first: int = 0) -> dict[str, Any]:
    """The points from place `first` on, as columns; lowest and highest values only where they differ from the mean."""
    points = curve.points[first:]
    columns: dict[str, Any] = {
        "scale": curve.values_per_point,
        "steps": [point.step for point in points],
        "mean": _rounded([point.mean for point in points]),
    }
    if curve.values_per_point > 1:
        columns |= {"low": _rounded([p.low for p in points]), "high": _rounded([p.high for p in points])}
    return columns


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def charts_json(runs: Sequence[ChartRun]) -> dict[str, Any]:
    """All of some runs, over each other where there are several."""
    names = list(dict.fromkeys(name for run in runs for name in run.curves))
    drawn = [
        {
            "label": run.label,
            "curves": {name: points_json(curve) for name, curve in run.curves.items()},
            "samples": list(run.samples),
            "saves": list(run.saves),
        }
        for run in runs
    ]
    return {"panels": panels_of(names), "runs": drawn}


def charts_html(runs: Sequence[ChartRun]) -> str:
    """An element with its own data: `edCharts.mountAll()` draws it, on the page or in a report."""
    content = escape(json.dumps(charts_json(runs), separators=(",", ":")))
    return f'<div class="ed-charts" data-chart="{content}">{EMPTY_SVG}</div>'


EMPTY_SVG = '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="No loss yet" width="0" height="0"></svg>'


def chart_news(run: ChartRun, held: Mapping[str, Any]) -> dict[str, Any]:
    """What a page has to add to the curves that it holds.

    Args:
        run: the run that it shows.
        held: of each curve the number of values per point and of points, as the page has said.
    """
    news = {name: _continued(curve, held.get(name)) for name, curve in run.curves.items()}
    return {
        "panels": panels_of(list(run.curves)),
        "curves": news,
        "samples": list(run.samples),
        "saves": list(run.saves),
    }


def _continued(curve: ThinnedCurve, held: Any) -> dict[str, Any]:
    """The points that follow those held; the last one of those may have grown."""
    first = 0
    match held:
        case [int(scale), int(count)] if scale == curve.values_per_point and 0 < count <= len(curve.points):
            first = count - 1
    return {"from": first, **points_json(curve, first)}
