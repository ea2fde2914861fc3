"""The first screen: what this is, the demo, and four steps to a run with one's own images."""

import base64
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import gradio as gr

from ed2.app.page.start import MissingChoice, StartState, start_state
from ed2.app.snapshot import RunSnapshot
from ed2.app.suggest.rules import SuggestedValues
from ed2.settings.fields import label_of
from ed2.settings.files import PROGRAM_DIR, absolute_paths
from ed2.text import value_text
from ed2.ui.context import Context
from ed2.ui.form import Form, defaults
from ed2.ui.html import escape, jump_html, link_html, list_html, note_html, on_page
from ed2.ui.page_state import PageState
from ed2.ui.run_starter import RunStarter, start_values
from ed2.ui.wiring import QUIET, SPOKEN, Updates, Values, fill

NAME = "EveryDream with a face"
TITLE = f'<h1><button type="button" data-tab="Start">{NAME}</button></h1>'
ABOUT = (
    "Teach Stable Diffusion your own subjects and styles: choose a folder of images with captions, press Train, and "
    "watch samples appear while the model learns. Everything happens on this computer."
)
DEMO_ABOUT = (
    "A tiny model that comes with the program learns a creature that it has never seen. You see samples, the loss and "
    "the finished model, as in a real training. It changes nothing in your settings."
)
NUM_CREATURES = 4
FROM_START = ("logdir", "save_ckpt_dir", "device")
"""Settings of the form that the demo takes over: where it is trained, and on what."""


class StartScreen:
    """What a page opens with the first time, and shows whenever its name is pressed."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        self._known: tuple[object, StartState] | None = None
        gr.HTML(f'<p class="ed-about">{ABOUT}</p>', js_on_load=None)
        with gr.Row(equal_height=False, elem_id="start-ways"):
            with gr.Column(min_width=280, scale=2, elem_classes="ed-card"):
                gr.HTML(f"<h2>Try it first</h2>{_creature_html()}<p>{DEMO_ABOUT}</p>", js_on_load=None)
                self.demo = gr.Button(
                    "Try the demo (3 minutes, no GPU)", variant="primary", elem_id="start-demo-button"
                )
                self.demo_done = gr.HTML("", js_on_load="ed.watchLinks(element)", elem_id="start-demo-done")
            with gr.Column(min_width=280, scale=3, elem_classes="ed-card"):
                gr.HTML("<h2>Train on my images</h2>", js_on_load=None)
                self.steps = gr.HTML("", js_on_load="ed.watchLinks(element)", elem_id="start-steps")
                self.go = gr.Button("Train on my images", elem_id="start-train-button")
                self.values = gr.HTML("", js_on_load=None, elem_id="start-values")
                with gr.Row(elem_classes="ed-actions", visible=False) as self.suggested:
                    self.apply = gr.Button("Use these values", elem_id="suggested-apply-button", min_width=140)
                    self.undo = gr.Button("Undo", elem_id="suggested-undo-button", min_width=90, interactive=False)

    @property
    def outputs(self) -> list[Any]:
        """What `updates` may change."""
        return [self.steps, self.values, self.suggested, self.apply, self.go, self.demo, self.demo_done]

    def seen_with(self, missing: tuple[MissingChoice, ...], page: PageState) -> object:
        """What the first screen is about; it is drawn again when this changes."""
        return (self._context.form_revision, id(self._context.checked), missing, page.planned_gb)

    def updates(self, shown: RunSnapshot, page: PageState, now: Mapping[str, object]) -> Updates:
        """Updates for what the page shows outdated."""
        updates: Updates = {}
        if page.shows_other_state(shown) or page.seen.get("start") != now["start"]:
            updates |= self._steps(shown, page, now["start"])
        if page.is_outdated("status", shown):
            updates[self.demo_done] = _demo_html(shown)
        return updates

    def wire(self, starter: RunStarter, strip_problems: gr.HTML, tabs: gr.Tabs) -> list[Any]:
        """Connect the buttons, once every control of the form is made.

        Returns:
            The events that change the form.
        """
        inputs, others = self._form.inputs, [self.undo]

        def start_demo(held: Values) -> Updates:
            return self.start_demo(self._form.read(held), tabs, strip_problems)

        def start(request: gr.Request, held: Values) -> Updates:
            if self._context.missing():
                return gr.skip()  # the browser goes to what is missing
            return starter.start(request, held)

        self.demo.click(start_demo, set(inputs), [tabs, strip_problems], **SPOKEN)
        self.go.click(start, starter.inputs, starter.outputs, js="ed.goToMissing", **SPOKEN)
        return [
            fill(self.apply.click, self.use_values, inputs, inputs, others, **QUIET),
            fill(self.undo.click, self.undo_values, inputs, inputs, others, **QUIET),
        ]

    def start_demo(self, form: Mapping[str, object], tabs: gr.Tabs, problems: gr.HTML) -> Updates:
        """Train the demo, and leave the form as it is."""
        kept = {name: form[name] for name in FROM_START}

        def begin() -> None:
            self._context.start_demo({**defaults(), **self._context.demo_settings.named, **kept})

        return start_values(begin, tabs, problems, self._context)

    def use_values(self, request: gr.Request, held: Values) -> Updates:
        """Put the suggested values into the form."""
        page, before = self._context.pages.of(request), self._form.read(held)
        changes = dict(self._state(page, None).changes or {})
        page.before_suggested = {name: before[name] for name in changes}
        return {**self._form.show(changes), self.undo: gr.update(interactive=bool(changes))}

    def undo_values(self, request: gr.Request, _: Values) -> Updates:
        """Restore what `use_values` replaced."""
        page = self._context.pages.of(request)
        before, page.before_suggested = page.before_suggested, {}
        return {**self._form.show(before), self.undo: gr.update(interactive=False)}

    def _steps(self, shown: RunSnapshot, page: PageState, key: object) -> Updates:
        state = self._state(page, key)
        is_demo_next = bool(state.missing) and not self._context.has_tried_demo
        return {
            self.steps: steps_html(state),
            self.values: values_html(state),
            self.suggested: gr.update(visible=not state.missing and bool(state.changes or page.before_suggested)),
            self.apply: gr.update(interactive=bool(state.changes)),
            self.go: gr.update(value=_next(state), variant=_look(not is_demo_next), interactive=not shown.is_active),
            self.demo: gr.update(variant=_look(is_demo_next), interactive=not shown.is_active),
        }

    def _state(self, page: PageState, key: object) -> StartState:
        """The state of the form that is kept, computed once for all pages."""
        known = self._known
        if known is not None and key is not None and known[0] == key:
            return known[1]
        values = absolute_paths({**defaults(), **self._context.form_values()}, PROGRAM_DIR)
        missing, checked, roots = self._context.missing(), self._context.checked, self._context.roots
        state = start_state(values, missing, checked, page.planned_gb or None, roots)
        self._known = (key, state)
        return state


def _creature_html() -> str:
    """A few of the demo's images, small enough to be part of the page."""
    images = sorted((PROGRAM_DIR / "ed2" / "demo" / "pictures").glob("*.png"))[:NUM_CREATURES]
    shown = [base64.b64encode(image.read_bytes()).decode() for image in images]
    tags = "".join(f'<img src="data:image/png;base64,{content}" alt="">' for content in shown)
    return f'<div class="ed-creature">{tags}</div>'


def _look(is_next: bool) -> str:
    """How a button looks: what to press next stands out."""
    return "primary" if is_next else "secondary"


def _next(state: StartState) -> str:
    """What the button does next."""
    if not state.missing:
        return "Start training"
    if len(state.missing) == 1:
        return f"Next: choose {state.missing[0].name}"
    return "Train on my images"


def steps_html(state: StartState) -> str:
    """The steps with their ticks, each with a link to its tab."""
    items = []
    for number, step in enumerate(state.steps, 1):
        mark = "done" if step.is_done else "open"
        sign = "✓" if step.is_done else str(number)
        offer = f"<p>{jump_html(step.offered, step.offer)}</p>" if step.offer else ""
        items.append(
            f'<li data-step="{mark}"><span class="ed-tick" role="img" aria-label="{mark}">{sign}</span>'
            f"<div><strong>{step.title}</strong><p>{escape(on_page(step.known))}</p>{offer}</div>"
            f"{link_html(step.action, step.tab, step.setting)}</li>"
        )
    return f'<ol class="ed-steps-list">{"".join(items)}</ol>'


def values_html(state: StartState) -> str:
    """The suggested values that differ from the form, and why each is suggested."""
    found = state.suggestions
    if found is None or not found.values or state.missing:
        return ""
    changes = state.changes or {}
    lines = [
        f"<strong>{escape(label_of(name))}</strong> {escape(value_text(value))}" for name, value in changes.items()
    ]
    html = note_html("The form has the suggested values.")
    if lines:
        html = f'<p class="ed-note">Suggested for this run: {", ".join(lines)}.</p>'
    notes = "".join(note_html(on_page(note)) for note in found.notes)
    return f"{html}{notes}{_why_html(found)}"


def _why_html(found: SuggestedValues) -> str:
    reasons = []
    for why, values in groupby(found.values, lambda value: value.why):
        parts = [f"{label_of(value.setting)} {value_text(value.value)}" for value in values]
        reasons.append(f"<strong>{escape(', '.join(parts))}</strong>: {escape(on_page(why))}.")
    return f'<details class="ed-note"><summary>Why these values?</summary>{list_html(reasons)}</details>'


def _demo_html(shown: RunSnapshot) -> str:
    """How the demo went; nothing before it was trained."""
    if shown.project != "demo" or shown.elsewhere:
        return ""
    if shown.is_active:
        return f'<p class="ed-note">The demo is being trained. {link_html("Watch it", "Train")}</p>'
    if shown.state == "done":
        return f'<p class="ed-note">✓ The demo is trained. {link_html("See what it learned", "Train")}</p>'
    if shown.state == "stopped":
        return f'<p class="ed-note">The demo was stopped. {link_html("See it, or resume it", "Train")}</p>'
    return ""
