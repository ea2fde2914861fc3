"""Charts as SVG, made here: nothing to load, and they follow the page's colours."""

from collections.abc import Sequence
from html import escape

from ed2.app.curve import Point, smoothed

WIDTH, HEIGHT = 1000, 240
NO_LOSS = "The curve begins with the first step."
ZOOMS = {"Whole run": 1.0, "Last half": 0.5, "Last tenth": 0.1}


def loss_html(curve: Sequence[Point], validation: Sequence[Point] = (), zoom: float = 1.0) -> str:
    """The loss by step: a band from lowest to highest, its moving average, and the validation as a dashed line.

    The letters stand beside the drawing, so that they keep their size where the drawing is stretched.

    Args:
        curve: points by step.
        validation: points of the validation loss.
        zoom: the last part of the run that is shown, 1 for all of it.
    """
    line = smoothed(tuple(curve))
    first = _first_shown(curve, zoom)
    shown = [(point, mean) for point, mean in zip(curve, line, strict=True) if point.step >= first]
    if not shown:
        return f'<div class="ed-empty">{NO_LOSS}{_drawing("No loss yet", "", "ed-nothing")}</div>'
    checks = [point for point in validation if point.step >= first]
    scale = _Scale([p for p, _ in shown], checks)
    upper = [scale.at(p.step, p.high) for p, _ in shown]
    lower = [scale.at(p.step, p.low) for p, _ in reversed(shown)]
    parts = [
        *(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"/>' for y in (0, HEIGHT // 2, HEIGHT)),
        f'<polygon class="band" points="{" ".join(upper + lower)}"/>',
        f'<polyline class="line" points="{" ".join(scale.at(p.step, mean) for p, mean in shown)}"/>',
    ]
    if len(shown) == 1:
        x, y = scale.at(shown[0][0].step, shown[0][1]).split(",")
        parts.append(f'<line class="dot" x1="{x}" x2="{x}" y1="{y}" y2="{y}"/>')
    if checks:
        parts.append(f'<polyline class="val" points="{" ".join(scale.at(p.step, p.mean) for p in checks)}"/>')
    label = f"Loss from step {shown[0][0].step:,} to {shown[-1][0].step:,}, now {shown[-1][1]:.4f}"
    drawing = _drawing(label, "".join(parts), "ed-loss")
    return f'<div class="ed-plot">{scale.sides()}{drawing}{_legend(bool(checks))}</div>'


def _drawing(label: str, content: str, kind: str) -> str:
    head = f'class="{kind}" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head} aria-label="{escape(label)}">{content}</svg>'


def _legend(has_validation: bool) -> str:
    validation = '<span><i class="ed-key val"></i>validation</span>' if has_validation else ""
    return (
        '<div class="ed-note ed-legend"><span><i class="ed-key line"></i>moving average</span>'
        f'<span><i class="ed-key band"></i>measured</span>{validation}</div>'
    )


def _first_shown(curve: Sequence[Point], zoom: float) -> float:
    if not curve:
        return 0
    return curve[-1].step - (curve[-1].step - curve[0].step) * zoom


class _Scale:
    """From steps and values to the image."""

    def __init__(self, points: Sequence[Point], more: Sequence[Point]) -> None:
        every = [*points, *more]
        self.first, self.last = points[0].step, max(points[-1].step, points[0].step + 1)
        low, high = min(p.low for p in every), max(p.high for p in every)
        room = 0.0 if high > low else abs(low) / 10 or 1e-6
        self.low, self.high = low - room, high + room

    def at(self, step: float, value: float) -> str:
        x = WIDTH * (step - self.first) / (self.last - self.first)
        return f"{x:.1f},{HEIGHT * (self.high - value) / (self.high - self.low):.1f}"

    def sides(self) -> str:
        """The numbers beside and below the drawing."""
        values = (self.high, (self.high + self.low) / 2, self.low)
        numbers = "".join(f"<span>{value:.3g}</span>" for value in values)
        steps = f"<span>step {self.first:,}</span><span>{self.last:,}</span>"
        return f'<div class="ed-values">{numbers}</div><div class="ed-steps">{steps}</div>'


def bars_html(bars: Sequence[tuple[str, int]], label: str) -> str:
    """Horizontal bars, each with its name and number."""
    most = max((number for _, number in bars), default=1)
    rows = "".join(
        f'<li><span>{escape(name)}</span><i style="width:{100 * number / most:.1f}%"></i><b>{number:,}</b></li>'
        for name, number in bars
    )
    return f'<ul class="ed-bars" aria-label="{escape(label)}">{rows}</ul>'
