"""A small drawing of the learning rate over the run, a line for each network."""

from collections.abc import Sequence

from ed2.app.checks.rates import RateCurve
from ed2.ui.html import escape, list_html

WIDTH, HEIGHT = 300, 70
LOOKS = ("unet", "text", "text-2")
"""The style of each network's line, in order."""


def rates_html(curves: Sequence[RateCurve]) -> str:
    """The curves, with the highest rate and the last step beside them; nothing without curves."""
    if not curves:
        return ""
    last = max(curves[0].points[-1][0], 1)
    highest = max(rate for curve in curves for _, rate in curve.points)
    lines, legend = "", []
    for look, curve in zip(LOOKS, curves, strict=False):
        points = [
            f"{WIDTH * step / last:.1f},{HEIGHT * (1 - rate / highest):.1f}" for step, rate in _drawn(curve, last)
        ]
        lines += f'<polyline class="{look}" points="{" ".join(points)}"/>'
        legend.append(f'<i class="ed-key {look}"></i>{escape(f"{curve.title}: {curve.course}")}')
    label = "; ".join(f"{curve.title}: {curve.course}" for curve in curves)
    grid = "".join(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"/>' for y in (0, HEIGHT))
    return (
        '<figure class="ed-rates"><figcaption>Learning rate</figcaption>'
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="Learning rate over the run: {escape(label)}">{grid}{lines}</svg>'
        f'<div class="ed-steps"><span>step 1</span><span>{last + 1:,}</span></div>'
        f"{list_html(legend, 'ed-parts-legend')}</figure>"
    )


def _drawn(curve: RateCurve, last: int) -> Sequence[tuple[int, float]]:
    """The points to draw; a run of one step is drawn as a line too."""
    return curve.points if len(curve.points) > 1 else (curve.points[0], (last, curve.points[0][1]))
