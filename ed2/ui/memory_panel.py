"""GPU memory in the Settings tab: a bar of what the run needs, what to change, and changing it."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from ed2.app.memory.report import (
    SMALLEST_SHOWN_GB,
    MemoryReport,
    amount_line,
    part_names,
    parts_line,
    report_memory,
)
from ed2.app.memory.suggestion import Suggestion, change_lines, suggest_for
from ed2.app.preflight import model_sizes
from ed2.errors import ProblemsError
from ed2.settings.fields import label_of
from ed2.settings.files import with_defaults
from ed2.settings.schema import Settings
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.html import escape, list_html, note_html, on_page
from ed2.ui.wiring import QUIET, Updates, fill
from ed2.vram.card import card_for

HERE = 0
"""The value that stands for the GPU in this computer."""
SIZES_GB = (8, 12, 16, 24)
LOOKS = {"fits": "good", "tight": "wait", "does not fit": "bad"}
NO_GPU = "There is no NVIDIA GPU here. To plan for one, choose its memory above."


class MemoryPanel:
    """Shows while the form is filled in whether the run fits a GPU, and changes the form so that it does."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        choices = [(_gpu_here(), HERE), *((f"{gb} GB", gb) for gb in SIZES_GB)]
        self.card = gr.Radio(choices, value=HERE, label="GPU memory", interactive=True, elem_id="card-choice")
        self.plan = gr.HTML("", js_on_load=None, elem_id="memory-plan")
        with gr.Row(elem_classes="ed-actions"):
            self.suggest = gr.Button("Suggest", elem_id="suggest-button", min_width=100)
            self.fit = gr.Button("Make it fit", elem_id="fit-button", min_width=100)
            self.undo = gr.Button("Undo", elem_id="undo-fit-button", min_width=100, interactive=False)
        self.answer = gr.HTML("", js_on_load=None, elem_id="memory-answer")

    def wire(self) -> list[Any]:
        """Connect the buttons, once every control is made; the bar is drawn with everything else that follows the form.

        Returns:
            The events that change the form.
        """
        inputs = self._form.inputs
        given, others = [self.card, *inputs], [self.answer, self.undo]
        self.suggest.click(self.show_advice, given, self.answer, **QUIET)
        return [
            fill(self.fit.click, self.make_fit, given, inputs, others, **QUIET),
            fill(self.undo.click, self.undo_fit, inputs, inputs, others, **QUIET),
        ]

    def plan_of(self, settings: Settings, card_gb: float) -> str:
        """The bar and the verdict for valid settings; a `card_gb` of 0 is the GPU in this computer."""
        return plan_html(report_memory(settings, model_sizes(settings), card_gb or None))

    def show_advice(self, request: gr.Request, card_gb: float, *raw: Any) -> str:
        """What to change so that the run fits."""
        values = self._form.read(raw)
        self._context.pages.of(request).advised = (card_gb, values)
        return self._advice(card_gb, values)[0]

    def drop_old_answer(self, request: gr.Request, card_gb: float, values: dict[str, object]) -> Updates:
        """Clear the answer if it is about another form or card, so that it never contradicts the verdict."""
        page = self._context.pages.of(request)
        if page.advised is None or page.advised == (card_gb, values):
            return {}
        page.advised = None
        return {self.answer: ""}

    def make_fit(self, request: gr.Request, card_gb: float, *raw: Any) -> Updates:
        """Change the form so that the run fits."""
        values = self._form.read(raw)
        html, changes = self._advice(card_gb, values)
        page = self._context.pages.of(request)
        page.before_fit = {name: values[name] for name in changes}
        page.advised = (card_gb, {**values, **changes})
        return {**self._form.show(changes), self.answer: html, self.undo: gr.update(interactive=bool(changes))}

    def undo_fit(self, request: gr.Request, *_: Any) -> Updates:
        """Restore what `make_fit` changed."""
        page = self._context.pages.of(request)
        before, page.before_fit, page.advised = page.before_fit, {}, None
        return {**self._form.show(before), self.answer: "", self.undo: gr.update(interactive=False)}

    def _advice(self, card_gb: float, values: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        """The advice for a form, as HTML, and the settings to change."""
        if card_gb == HERE and card_for(str(values.get("device", "auto"))).total_gb is None:
            return _list_html([NO_GPU]), {}
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


def _gpu_here() -> str:
    card = card_for("auto")
    return "No GPU found here" if card.total_gb is None else f"This GPU: {card.name}, {card.total_gb:.0f} GB"


def _advice_lines(found: Suggestion) -> list[str]:
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
