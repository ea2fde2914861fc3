"""The memory of the run against a card, in the tab Settings: a bar of its parts, what to change, and changing it."""

from collections.abc import Mapping
from html import escape
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
from ed2.ui.labels import on_page
from ed2.ui.wiring import QUIET, fill
from ed2.vram.card import card_for

HERE = 0
"""The choice of the card that is in this computer."""
SIZES = (8, 12, 16, 24)
LOOKS = {"fits": "good", "tight": "wait", "does not fit": "bad"}
SHORT = {"fits": "Fits", "tight": "Tight", "does not fit": "Does not fit"}


class MemoryPanel:
    """Says while the form is filled in whether the run fits a card, and fills in what makes it fit."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        choices = [(_card_here(), HERE), *((f"{gb} GB", gb) for gb in SIZES)]
        self.card = gr.Radio(choices, value=HERE, label="Memory of the card", interactive=True, elem_id="card-choice")
        self.shown = gr.HTML("", js_on_load=None, elem_id="memory-plan")
        with gr.Row(elem_classes="ed-actions"):
            self.suggest = gr.Button("Suggest", elem_id="suggest-button", min_width=100)
            self.fit = gr.Button("Make it fit", elem_id="fit-button", min_width=100)
            self.undo = gr.Button("Undo", elem_id="undo-fit-button", min_width=100, interactive=False)
        self.answer = gr.HTML("", js_on_load=None, elem_id="memory-answer")
        self._before = gr.State({})

    def wire(self) -> list[Any]:
        """Connect the buttons, once every control is made; the bar is drawn with all else that follows the form.

        Returns:
            The events that change the form.
        """
        given = [self.card, *self._form.inputs]
        others = [self.answer, self._before, self.undo]
        self.suggest.click(self._suggest, given, self.answer, **QUIET)
        return [
            fill(self.fit.click, self._fit, given, self._form.inputs, others, **QUIET),
            fill(self.undo.click, self._undo, [self._before, *self._form.inputs], self._form.inputs, others, **QUIET),
        ]

    def told(self, settings: Settings, card_gb: float) -> str:
        """The bar and the verdict for settings that were checked; the choice of a card is 0 for the one here."""
        return plan_html(report_memory(settings, model_sizes(settings), card_gb or None))

    def _suggest(self, card_gb: float, *raw: Any) -> str:
        return self._answer(card_gb, self._form.values_of(raw))[0]

    def _fit(self, card_gb: float, *raw: Any) -> list[Any]:
        values = self._form.values_of(raw)
        html, changes = self._answer(card_gb, values)
        before = {name: values[name] for name in changes}
        return [*self._form.shown(changes), html, before, gr.update(interactive=bool(changes))]

    def _undo(self, before: Mapping[str, Any], *_: Any) -> list[Any]:
        return [*self._form.shown(before), "", {}, gr.update(interactive=False)]

    def _answer(self, card_gb: float, values: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        """What is suggested for a form, as HTML, and the settings to change."""
        if card_gb == HERE and card_for(str(values.get("device", "auto"))).total_gb is None:
            return _list_html(["There is no NVIDIA card here: choose above the size of the one that you mean."]), {}
        try:
            settings = with_defaults(self._context.require_allowed(values))
            sizes, num_images = model_sizes(settings), self._num_images(settings)
            found = suggest_for(settings, sizes, vram_gb=card_gb or None, num_images=num_images)
        except ProblemsError as error:
            return _list_html([f"{problem.what} {problem.fix}" for problem in error.problems]), {}
        changes = {name: value for change in found.advice.changes for name, value in change.after.items()}
        return _list_html(_lines(found)), changes

    def _num_images(self, settings: Settings) -> int | None:
        """How many images the last check found, if they are still the ones."""
        checked = self._context.checked
        if checked is None or checked.settings.data.data_root != settings.data.data_root:
            return None
        return len(checked.dataset.examples)


def _card_here() -> str:
    card = card_for("auto")
    return "No card found here" if card.total_gb is None else f"This one: {card.name}, {card.total_gb:.0f} GB"


def _lines(found: Suggestion) -> list[str]:
    advice = found.advice
    lines = [*advice.needed, *change_lines(advice.changes, label_of)]
    if advice.fits:
        after = advice.after
        text = f"about {after.expected_gb:.1f} GB ({after.low_gb:.1f} to {after.high_gb:.1f})"
        lines.append(f"Then it takes {text}." if advice.changes else f"Nothing has to be changed: it takes {text}.")
    return [*lines, *([advice.room] if advice.room else [])]


def _list_html(lines: list[str]) -> str:
    return f'<ul class="ed-advice">{"".join(f"<li>{escape(on_page(line.strip()))}</li>" for line in lines)}</ul>'


def plan_html(found: MemoryReport) -> str:
    """A bar of the parts against the card, its legend, and the verdict in words."""
    plan, verdict = found.plan, found.plan.verdict(found.card)
    pill = f'<span class="ed-pill" data-look="{LOOKS[verdict]}">{SHORT[verdict]}</span> ' if verdict else ""
    names = part_names(found.card)
    shown = {name: size for name, size in plan.parts.items() if size >= SMALLEST_SHOWN_GB}
    legend = "".join(
        f'<li><i class="ed-key part-{name}"></i>{escape(names[name])} <b>{size:.1f}</b></li>'
        for name, size in shown.items()
    )
    card_gb = found.card.free_gb or 0.0
    if 0 < card_gb < plan.high_gb:
        legend += f'<li><i class="ed-key limit"></i>end of the card <b>{card_gb:.1f}</b></li>'
    notes = "".join(f'<p class="ed-note">{escape(on_page(note))}</p>' for note in plan.notes)
    return (
        f'<div class="ed-card ed-plan" data-verdict="{verdict or "unknown"}"><p>{pill}{escape(_sentence(found))}</p>'
        f'{_bar_html(found, shown)}<ul class="ed-parts-legend">{legend}</ul>{notes}</div>'
    )


def _sentence(found: MemoryReport) -> str:
    text = amount_line(found.plan, found.card)
    hint = " For a card choose its size above." if found.card.kind == "cpu" else ""
    return f"{text[0].upper()}{text[1:]}{hint}"


def _bar_html(found: MemoryReport, shown: Mapping[str, float]) -> str:
    """The parts side by side, the free part of the card behind them; a mark where the card ends, if they are more."""
    plan, card_gb = found.plan, found.card.free_gb or 0.0
    whole = max(card_gb, plan.high_gb)
    parts = "".join(
        f'<i class="part-{name}" style="width:{100 * size / whole:.2f}%"></i>' for name, size in shown.items()
    )
    end = f'<b class="ed-limit" style="left:{100 * card_gb / whole:.2f}%"></b>' if 0 < card_gb < whole else ""
    label = escape(parts_line(plan, found.card))
    return f'<div class="ed-parts" role="img" aria-label="{label}" title="{label}">{parts}{end}</div>'
