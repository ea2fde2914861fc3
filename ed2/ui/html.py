"""Pieces of HTML: state, figures, memory, problems and charts. Every text is escaped."""

import os
from collections.abc import Iterable, Sequence
from html import escape

from ed2.app.curve import Point, smoothed
from ed2.app.reporters.describe import describe
from ed2.app.snapshot import RunSnapshot
from ed2.errors import Problem
from ed2.events import MemoryMeasured
from ed2.settings.fields import fields, label_of
from ed2.settings.files import PROGRAM_DIR
from ed2.text import duration
from ed2.ui.hiding import Hide
from ed2.ui.labels import on_page
from ed2.vram.sampler import MemoryUse, Share

LOOKS = {
    "preparing": "busy", "training": "busy", "sampling": "busy", "paused": "wait", "stopping": "wait",
    "done": "good", "stopped": "wait", "failed": "bad",
}  # fmt: skip
STATE_WORDS = {
    "connecting": "Connecting", "idle": "Ready", "preparing": "Preparing", "training": "Training",
    "sampling": "Drawing samples", "paused": "Paused", "stopping": "Stopping", "done": "Done", "stopped": "Stopped",
    "failed": "Failed",
}  # fmt: skip
WIDTH, HEIGHT = 1000, 240
NO_LOSS = "The curve begins with the first step."
ZOOMS = {"Whole run": 1.0, "Last half": 0.5, "Last tenth": 0.1}
NO_SINGLE_FILE = (
    "No single file for a webui was written (no_save_ckpt). Make one out of the checkpoint: "
    "<code>python -m ed2 convert CHECKPOINT NAME.safetensors</code>."
)


def status_html(shown: RunSnapshot | None, *, hide: Hide = str) -> str:
    """The state in the strip; None while the program has not answered."""
    if shown is None:
        return _status(RunSnapshot(), "connecting", "")
    parts = [shown.project] if shown.project else []
    if shown.epoch:
        parts.append(f"epoch {shown.epoch:,} of {shown.max_epochs:,}")
    if shown.total:
        parts.append(f"step {shown.step:,} of {shown.total:,}")
    if shown.seconds_left is not None and shown.state != "stopping":
        parts.append(f"about {duration(max(1.0, shown.seconds_left))} left")
    parts += filter(None, [shown.asked, hide(on_page(_doing(shown)))])
    return _status(shown, shown.state, " · ".join(parts))


def _doing(shown: RunSnapshot) -> str:
    """What is being done now, or how it ended."""
    if shown.is_saving:
        return "saving a checkpoint"
    if shown.progress and shown.state != "stopping":
        return shown.progress
    if shown.detail:
        return shown.detail if shown.state != "failed" else ""
    return "Fill the tabs, then press Train." if shown.state == "idle" else ""


def _status(shown: RunSnapshot, state: str, text: str) -> str:
    step, total = shown.step, shown.total
    percent = 100 * step / total if total else 0
    is_saving = str(shown.is_saving).lower()
    data = f'data-state="{state}" data-step="{step}" data-total="{total}" data-saving="{is_saving}"'
    look, word = ("busy", "Elsewhere") if shown.elsewhere else (LOOKS.get(state, ""), STATE_WORDS[state])
    return (
        f'<section id="status" class="ed-status" aria-label="State of the run" {data}>'
        f'<span class="ed-pill" data-look="{look}">{word}</span>'
        f'<span class="ed-status-text">{escape(text)}</span>'
        f'<div class="ed-bar" role="progressbar" aria-label="Steps done" aria-valuemin="0" aria-valuemax="{total}" '
        f'aria-valuenow="{step}"><i style="width:{percent:.1f}%"></i></div></section>'
    )


def problems_html(problems: Sequence[Problem], *, box_id: str = "problems", hide: Hide = str) -> str:
    """What is wrong and what to do, in a box that screen readers announce; an empty box where nothing is wrong."""
    if not problems:
        return f'<div id="{box_id}" class="ed-problems" role="alert"></div>'
    items = "".join(f"<li>{_problem(problem, hide)}</li>" for problem in problems)
    heading = "This needs your attention:" if len(problems) == 1 else f"These {len(problems)} need your attention:"
    return f'<div id="{box_id}" class="ed-problems" role="alert"><p>{heading}</p><ul>{items}</ul></div>'


def _problem(problem: Problem, hide: Hide) -> str:
    name, text = problem.path or "", on_page(f"{problem.what} {problem.fix}".strip())
    if name in fields():
        return escape(f"{label_of(name)} ({name}): {hide(text)}")
    return escape(hide(f"{name}: {text}" if name else text))


def model_html(shown: RunSnapshot) -> str:
    """Where the model of a run that has ended lies; empty while one goes on, and where nothing was saved."""
    places = {"Checkpoint": shown.checkpoint, "Single file for a webui": shown.single_file}
    there = {name: path for name, path in places.items() if path and path.exists()}
    if shown.is_active or shown.elsewhere or not there:
        return ""
    note = "" if shown.single_file else f'<p class="ed-note">{NO_SINGLE_FILE}</p>'
    rows = "".join(f"<dt>{name}</dt><dd>{escape(str(there[name]))}</dd>" for name in reversed(places) if name in there)
    return (
        f'<section class="ed-card ed-model" aria-label="Your model"><h3>Your model</h3><dl>{rows}</dl>{note}</section>'
    )


def figures_html(shown: RunSnapshot) -> str:
    """Step, epoch, speed, time left, loss and learning rate."""
    left = "–" if shown.seconds_left is None else duration(shown.seconds_left)
    figures = {
        "Step": f"{shown.step:,} of {shown.total:,}" if shown.total else "–",
        "Epoch": f"{shown.epoch:,} of {shown.max_epochs:,}" if shown.epoch else "–",
        "Speed": "–" if shown.images_per_second is None else f"{shown.images_per_second:.1f} images/s",
        "Time left": left,
        "Loss": "–" if shown.loss is None else f"{shown.loss:.4f}",
        "Learning rate": "–" if shown.lr is None else f"{shown.lr:.3g}",
        "Images": f"{shown.images:,}" if shown.images else "–",
        "Computes on": escape(shown.device) or "–",
    }
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items())
    title = escape(shown.project) or "No run yet"
    return f'<section class="ed-card" aria-label="Figures of the run"><h3>{title}</h3>'\
           f'<dl class="ed-figures">{rows}</dl></section>'  # fmt: skip


def memory_html(memory: MemoryUse | None, peaks: Iterable[MemoryMeasured] = ()) -> str:
    """Memory of the card and of the computer as bars, and what was planned beside what was measured."""
    if memory is None:
        return (
            '<section class="ed-card" aria-label="Memory"><h3>Memory</h3><p class="ed-note">Not read yet.</p></section>'
        )
    card = _memory(memory.card_name or "Card", memory.card) if memory.card else (
        '<p class="ed-note">No NVIDIA card is in use: the run computes on the processor.</p>')  # fmt: skip
    busy = (
        f'<p class="ed-note">The card is busy {memory.busy_percent} % of the time.</p>' if memory.busy_percent else ""
    )
    told = "".join(f'<p class="ed-note">{escape(describe(peak))}</p>' for peak in peaks)
    bars = card + busy + told + _memory("Computer", memory.pc)
    return f'<section class="ed-card" aria-label="Memory"><h3>Memory</h3>{bars}</section>'


def _memory(name: str, share: Share) -> str:
    own, others = (100 * part / max(share.total, 0.1) for part in (share.own, share.others))
    free = max(0.0, share.total - share.own - share.others)
    told = f"this program {share.own:.1f}, others {share.others:.1f} of {share.total:.1f} GB"
    return (
        f'<div class="ed-memory"><div class="ed-memory-text"><strong>{escape(name)}</strong>'
        f"<span>{free:.1f} of {share.total:.1f} GB free</span></div>"
        f'<div class="ed-stack" role="img" aria-label="{escape(name)}: {told}"><i class="own" style="width:{own:.1f}%">'
        f'</i><i class="others" style="width:{others:.1f}%"></i></div><p class="ed-note ed-legend">'
        f'<span><i class="ed-key own"></i>this program {share.own:.1f} GB</span>'
        f'<span><i class="ed-key others"></i>others {share.others:.1f} GB</span></p></div>'
    )


def empty_html(text: str) -> str:
    """Said where there is nothing to show yet."""
    return f'<div class="ed-empty">{escape(text)}</div>'


def from_program(text: str) -> str:
    """The text with what lies in the program's folder named from there."""
    return text.replace(f"{PROGRAM_DIR}{os.sep}", "")


def log_html(lines: Iterable[str], *, hide: Hide = from_program) -> str:
    """The last lines of the log, the newest at the end."""
    shown = escape("\n".join(hide(on_page(line)) for line in lines)) or "Nothing has happened yet."
    return f'<pre class="ed-log" tabindex="0" aria-label="Log of the run">{shown}</pre>'


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
