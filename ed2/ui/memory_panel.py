"""The panel of the Settings tab: memory, steps, time, disk, problems, and what to change so that the run fits."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import gradio as gr

from ed2.app.checks.check import LIKE_IT, Forecast, forecast
from ed2.app.checks.memory import (
    SMALLEST_SHOWN_GB,
    MemoryReport,
    amount_line,
    part_names,
    parts_line,
    report_memory,
)
from ed2.app.checks.suitability import RateCurve
from ed2.app.preflight import model_sizes
from ed2.app.suggest.answer import MemorySuggestion, change_lines, suggest_for
from ed2.errors import Problem, ProblemsError
from ed2.settings.fields import label_of
from ed2.settings.files import with_defaults
from ed2.settings.schema import Settings
from ed2.text import file_size, plural, rough_duration
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.html import NO_VALUE, escape, list_html, note_html, on_page, problems_html
from ed2.ui.page_state import PageState
from ed2.ui.preset_panel import as_text
from ed2.ui.settings_view import with_labels
from ed2.ui.wiring import QUIET, Updates, Values, fill
from ed2.vram.card import card_for

HERE = 0
"""The value that stands for the GPU in this computer."""
SIZES_GB = (8, 12, 16, 24)
LOOKS = {"fits": "good", "tight": "wait", "does not fit": "bad"}
LISTED_IN_STRIP = "Fix the problems listed under Train to see steps and memory."
FIT, APPLY = "Make it fit", "Apply"
OUTDATED = "The images were checked at {} px with other image settings. Press Check again in the Dataset tab."
NO_TIME = "known after the first steps"
WIDTH, HEIGHT = 300, 70
"""Of the drawing of the learning rates."""
GRID = "".join(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"/>' for y in (0, HEIGHT))
CURVE_LOOKS = ("unet", "text", "text-2")
"""The style of each network's line, in order."""


class MemoryPanel:
    """Stays in view beside the form: memory, steps, time, disk, what is wrong, and changes that make the run fit."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        with gr.Column(elem_id="memory-panel"):
            self.head = gr.HTML(head_html([]), js_on_load=None, elem_id="panel-head")
            with gr.Column(elem_id="panel-body"):
                self.problems = gr.HTML("", js_on_load=None, elem_id="panel-problems")
                choices = [(_gpu_here(), HERE), *((f"{gb} GB", gb) for gb in SIZES_GB)]
                self.card = gr.Dropdown(
                    choices, value=HERE, label="GPU memory", interactive=True, elem_id="card-choice"
                )
                self.plan = gr.HTML("", js_on_load=None, elem_id="memory-plan")
                self.answer = gr.HTML("", js_on_load=None, elem_id="memory-answer")
                with gr.Row(elem_classes="ed-actions", elem_id="fit-row"):
                    self.fit = gr.Button(FIT, elem_id="fit-button", min_width=100, visible=False)
                    self.undo = gr.Button("Undo", elem_id="undo-fit-button", min_width=100, visible=False)
                self.forecast = gr.HTML("", js_on_load=None, elem_id="forecast")

    @property
    def outputs(self) -> list[Any]:
        """What `updates` changes."""
        return [self.head, self.problems, self.plan, self.answer, self.fit, self.undo, self.forecast]

    def opened(self, page: PageState) -> Updates:
        """Show the GPU that was chosen last."""
        kept = self._context.user.planned_gb()
        page.planned_gb = kept if kept in SIZES_GB else HERE
        return {self.card: gr.update(value=page.planned_gb)}

    def wire(self) -> list[Any]:
        """Connect the buttons, once every control is made; the rest follows the form.

        Returns:
            The events that change the form.
        """
        inputs = self._form.inputs
        return [
            fill(self.fit.click, self.make_fit, [self.card, *inputs], inputs, **QUIET),
            fill(self.undo.click, self.undo_fit, inputs, inputs, **QUIET),
        ]

    def updates(self, request: gr.Request, values: dict[str, object], card_gb: float) -> Updates:
        """What a form comes to; a `card_gb` of 0 is the GPU in this computer."""
        try:
            settings = with_defaults(self._context.require_allowed(values))
        except ProblemsError as error:
            hidden = gr.update(visible=False)
            told = {self.problems: self._problems_html(error.problems), self.head: head_html(error.problems)}
            return {**told, self.plan: "", self.answer: "", self.fit: hidden, self.undo: hidden, self.forecast: ""}
        report = report_memory(settings, model_sizes(settings), card_gb or None)
        found = forecast(settings, self._context.checked, card_gb or None)
        return {
            self.head: head_html([], report, found),
            self.problems: "",
            self.plan: plan_html(report),
            self.forecast: self._outdated_html(settings) + forecast_html(found),
            **self._suggested(request, card_gb, values, FIT if report.plan.verdict(report.card) != "fits" else APPLY),
        }

    def make_fit(self, request: gr.Request, held: Values) -> Updates:
        """Change the form so that the run fits."""
        values = self._form.read(held)
        _, changes = self._advice(held[self.card], values)
        page = self._context.pages.of(request)
        page.before_fit = {name: values[name] for name in changes}
        page.after_fit = changes
        return self._form.show(changes)

    def undo_fit(self, request: gr.Request, _: Values) -> Updates:
        """Restore what `make_fit` changed."""
        page = self._context.pages.of(request)
        before, page.before_fit, page.after_fit = page.before_fit, {}, {}
        return self._form.show(before)

    def _suggested(self, request: gr.Request, card_gb: float, values: Mapping[str, object], label: str) -> Updates:
        """The suggestion for a form, and which buttons make sense: *Undo* while the form has what was applied."""
        page = self._context.pages.of(request)
        html, changes = self._advice(card_gb, values)
        is_applied = all(values[name] == value for name, value in page.after_fit.items())
        if page.after_fit and is_applied:
            applied = []
            for name, value in page.after_fit.items():
                applied.append(f"{label_of(name)}: {as_text(page.before_fit[name])} → {as_text(value)}")
            html = _list_html([f"Changed {', '.join(applied)}."]) + html
        return {
            self.answer: html,
            self.fit: gr.update(visible=bool(changes), value=label),
            self.undo: gr.update(visible=bool(page.after_fit) and is_applied),
        }

    def _advice(self, card_gb: float, values: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        """The advice for a form, as HTML, and the settings to change."""
        if card_gb == HERE and card_for(str(values.get("device", "auto"))).total_gb is None:
            return "", {}
        try:
            settings = with_defaults(self._context.require_allowed(values))
            sizes, num_images = model_sizes(settings), self._num_images(settings)
            found = suggest_for(settings, sizes, vram_gb=card_gb or None, num_images=num_images)
        except ProblemsError as error:
            return _list_html([f"{problem.what} {problem.fix}" for problem in error.problems]), {}
        changes: dict[str, object] = {}
        for change in found.advice.changes:
            changes.update(change.after)
        return _list_html(_advice_lines(found)), changes

    def _num_images(self, settings: Settings) -> int | None:
        """How many images the last check found, if it was of the same folders."""
        checked = self._context.checked
        if checked is None or checked.settings.data.data_root != settings.data.data_root:
            return None
        return len(checked.dataset.examples)

    def _outdated_html(self, settings: Settings) -> str:
        """That the steps are of a check with other image settings, if it was of the same folders."""
        checked = self._context.checked
        if checked is None or not self._num_images(settings) or not self._context.is_check_outdated(settings):
            return ""
        return note_html(OUTDATED.format(checked.settings.data.resolution))

    def _problems_html(self, problems: Sequence[Problem]) -> str:
        in_strip = self._context.service.snapshot().problems
        others = [problem for problem in problems if problem not in in_strip]
        if not others:
            return note_html(LISTED_IN_STRIP)
        return problems_html(others, box_id="settings-problems")


def _gpu_here() -> str:
    card = card_for("auto")
    if card.total_gb is None:
        return "No GPU found here"
    return f"This GPU: {card.name}, {card.total_gb:.0f} GB"


def _advice_lines(found: MemorySuggestion) -> list[str]:
    advice = found.advice
    lines = [*advice.needed, *change_lines(advice.changes, label_of)]
    if advice.fits:
        after = advice.after
        start = "With these changes it needs" if advice.changes else "No changes needed: it needs"
        lines.append(f"{start} about {after.expected_gb:.1f} GB ({after.low_gb:.1f} to {after.high_gb:.1f}).")
    if advice.room:
        lines.append(advice.room)
    return lines


def _list_html(lines: Sequence[str]) -> str:
    return list_html((escape(on_page(line.strip())) for line in lines), "ed-advice")


def head_html(problems: Sequence[Problem], report: MemoryReport | None = None, found: Forecast | None = None) -> str:
    """The panel in a line, which on a phone is all of it until it is pressed."""
    parts = []
    if problems:
        look, word = "bad", f"{len(problems)} {plural(len(problems), 'problem')}"
    elif report is None:
        look, word = "", "…"
    else:
        verdict = report.plan.verdict(report.card)
        look, word = (LOOKS[verdict], verdict.capitalize()) if verdict else ("", "CPU")
        free = report.card.free_gb if report.card.kind == "cuda" else None
        parts.append(f"{report.plan.expected_gb:.1f} of {free:.1f} GB" if free else f"{report.plan.expected_gb:.1f} GB")
    if found and found.steps is not None:
        parts.append(f"{found.steps:,} {plural(found.steps, 'step')}")
    pill = f'<span class="ed-pill" data-look="{look}">{escape(word)}</span>'
    return (
        '<button type="button" id="panel-button" aria-controls="panel-body" aria-expanded="false">'
        f"{pill} <span>{escape(' · '.join(parts))}</span></button>"
    )


def forecast_html(found: Forecast) -> str:
    """Steps, time and disk, the learning rate over the run, and what is worth a second thought."""
    time = rough_duration(found.seconds) if found.seconds else NO_VALUE
    figures = (
        ("Steps", NO_VALUE if found.steps is None else f"{found.steps:,}", on_page(found.course)),
        ("Time", time, LIKE_IT if found.seconds else NO_TIME),
        ("Disk", file_size(found.checkpoint_bytes), f"per checkpoint; {file_size(found.free_bytes)} free"),
    )
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd><dd>{escape(text)}</dd></div>" for name, value, text in figures
    )
    notes = list_html((escape(with_labels(on_page(line))) for line in found.notes), "ed-advice ed-note")
    return f'<dl class="ed-figures ed-forecast">{rows}</dl>{rates_html(found.rates)}{notes}'


def plan_html(found: MemoryReport) -> str:
    """A bar of the parts against the GPU's memory, its legend, and the verdict in words."""
    plan, card = found.plan, found.card
    verdict = plan.verdict(card)
    text = amount_line(plan, card)
    text = escape(f"{text[0].upper()}{text[1:]}")
    if verdict:
        text = f'<span class="ed-pill" data-look="{LOOKS[verdict]}">{verdict.capitalize()}</span> {text}'
    if card.kind == "cpu":
        text += " To plan for a GPU, choose its memory above."
    names = part_names(card)
    shown = {name: size for name, size in plan.parts.items() if size >= SMALLEST_SHOWN_GB}
    legend = [_legend_item(f"part-{name}", names[name], size) for name, size in shown.items()]
    if card.free_gb and card.free_gb < plan.high_gb:
        legend.append(_legend_item("limit", "end of GPU memory", card.free_gb))
    notes = "".join(note_html(on_page(note)) for note in plan.notes)
    return (
        f'<div class="ed-card ed-plan" data-verdict="{verdict or "unknown"}"><p>{text}</p>{_bar_html(found, shown)}'
        f"{list_html(legend, 'ed-parts-legend')}{notes}</div>"
    )


def _legend_item(key: str, name: str, size_gb: float) -> str:
    return f'<i class="ed-key {key}"></i>{escape(name)} <b>{size_gb:.1f}</b>'


def _bar_html(found: MemoryReport, shown: Mapping[str, float]) -> str:
    """The parts side by side over the free memory, with a mark where that ends if they need more."""
    free_gb = found.card.free_gb or 0.0
    whole_gb = max(free_gb, found.plan.high_gb)
    parts = "".join(
        f'<i class="part-{name}" style="width:{100 * size / whole_gb:.2f}%"></i>' for name, size in shown.items()
    )
    if 0 < free_gb < whole_gb:
        parts += f'<b class="ed-limit" style="left:{100 * free_gb / whole_gb:.2f}%"></b>'
    label = escape(parts_line(found.plan, found.card))
    return f'<div class="ed-parts" role="img" aria-label="{label}" title="{label}">{parts}</div>'


def rates_html(curves: Sequence[RateCurve]) -> str:
    """The learning rate over the run, a line for each network, and the last step; nothing without curves."""
    if not curves:
        return ""
    last = max(curves[0].points[-1][0], 1)
    highest = max(rate for _, rate in chain(*(curve.points for curve in curves)))
    lines, legend = "", []
    for look, curve in zip(CURVE_LOOKS, curves, strict=False):
        points = curve.points
        if len(points) == 1:  # a run of one step is drawn as a line too
            points = (points[0], (last, points[0][1]))
        drawn = [f"{WIDTH * step / last:.1f},{HEIGHT * (1 - rate / highest):.1f}" for step, rate in points]
        lines += f'<polyline class="{look}" points="{" ".join(drawn)}"/>'
        legend.append(f'<i class="ed-key {look}"></i>{escape(f"{curve.title}: {curve.course}")}')
    label = "; ".join(f"{curve.title}: {curve.course}" for curve in curves)
    return (
        '<figure class="ed-rates"><figcaption>Learning rate</figcaption>'
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="Learning rate over the run: {escape(label)}">{GRID}{lines}</svg>'
        f'<div class="ed-steps"><span>step 1</span><span>{last + 1:,}</span></div>'
        f"{list_html(legend, 'ed-parts-legend')}</figure>"
    )
