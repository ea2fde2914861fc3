"""Charts as SVG, made here: nothing to load, and they follow the page's colours."""

from collections.abc import Sequence
from html import escape

from ed2.app.curve import Point, smoothed

WIDTH, HEIGHT = 960, 270
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 34
ZOOMS = {"Whole run": 1.0, "Last half": 0.5, "Last tenth": 0.1}


def loss_svg(curve: Sequence[Point], validation: Sequence[Point] = (), zoom: float = 1.0) -> str:
    """The loss by step: a band from lowest to highest, its moving average, and the validation as a dashed line.

    Args:
        curve: points by step.
        validation: points of the validation loss.
        zoom: the last part of the run that is shown, 1 for all of it.
    """
    line = smoothed(tuple(curve))
    first = _first_shown(curve, zoom)
    shown = [(point, mean) for point, mean in zip(curve, line, strict=True) if point.step >= first]
    if not shown:
        place = f'x="{WIDTH / 2}" y="44" text-anchor="middle"'
        return _svg("No loss yet", f"<text {place}>The curve begins with the first step.</text>", 80)
    checks = [point for point in validation if point.step >= first]
    scale = _Scale([p for p, _ in shown], checks)
    upper = [scale.at(p.step, p.high) for p, _ in shown]
    lower = [scale.at(p.step, p.low) for p, _ in reversed(shown)]
    parts = [
        scale.axes(),
        f'<polygon class="band" points="{" ".join(upper + lower)}"/>',
        f'<polyline class="line" points="{" ".join(scale.at(p.step, mean) for p, mean in shown)}"/>',
    ]
    if checks:
        parts.append(f'<polyline class="val" points="{" ".join(scale.at(p.step, p.mean) for p in checks)}"/>')
    last = shown[-1][0].step
    return _svg(f"Loss from step {shown[0][0].step} to {last}, now {shown[-1][1]:.4f}", "".join(parts))


def _first_shown(curve: Sequence[Point], zoom: float) -> float:
    if not curve:
        return 0
    return curve[-1].step - (curve[-1].step - curve[0].step) * zoom


class _Scale:
    """From steps and values to the picture."""

    def __init__(self, points: Sequence[Point], more: Sequence[Point]) -> None:
        every = [*points, *more]
        self.first, self.last = points[0].step, max(points[-1].step, points[0].step + 1)
        self.low, high = min(p.low for p in every), max(p.high for p in every)
        self.high = high if high > self.low else self.low + 1e-6

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)

    def at(self, step: float, value: float) -> str:
        return f"{self.x(step):.1f},{self.y(value):.1f}"

    def axes(self) -> str:
        lines = []
        for part in (0.0, 0.5, 1.0):
            value = self.low + (self.high - self.low) * part
            y = self.y(value)
            lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(f'<text x="2" y="{y + 5:.1f}">{value:.3f}</text>')
        lines.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">step {self.first:,}</text>')
        lines.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{self.last:,}</text>')
        return "".join(lines)


def bars_svg(bars: Sequence[tuple[str, int]], label: str) -> str:
    """Horizontal bars, each with its name and number."""
    most = max((number for _, number in bars), default=1)
    row, parts = 28, []
    for place, (name, number) in enumerate(bars):
        y = place * row
        width = max(2, (WIDTH - 240) * number / most)
        parts.append(f'<text x="4" y="{y + 19}">{escape(name)}</text>')
        parts.append(f'<rect class="bar" x="130" y="{y + 4}" width="{width:.0f}" height="20" rx="4"/>')
        parts.append(f'<text x="{138 + width:.0f}" y="{y + 19}">{number:,}</text>')
    return _svg(label, "".join(parts), row * len(bars) + 4)


def _svg(label: str, content: str, height: int = HEIGHT) -> str:
    head = f'class="ed-chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head}>{content}</svg>'
