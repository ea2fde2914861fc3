"""The Settings tab: presets, every setting in groups, and a panel with what the form comes to."""

import contextlib
import json
import shlex
from collections.abc import Mapping
from typing import Any

import gradio as gr

from ed2.app.preflight import model_sizes
from ed2.errors import Ed2Error, Problem, ProblemsError, SettingsError
from ed2.models.families.facts import FACTS
from ed2.settings.checks import as_far_as_valid
from ed2.settings.fields import fields, groups
from ed2.settings.files import PROGRAM_DIR, TRAIN_COMMAND, absolute_paths, with_defaults
from ed2.small_files import parse_json
from ed2.ui.context import Context
from ed2.ui.folder_browser import ModelBrowser
from ed2.ui.form import BASE, Form, changed_form, defaults
from ed2.ui.memory_panel import MemoryPanel
from ed2.ui.preset_panel import PresetPanel, differing
from ed2.ui.settings_view import (
    FOUND_HTML,
    METHOD,
    FormFacts,
    heading_html,
    in_force,
    not_applicable,
    problems_by_setting,
    settings_of,
    toolbar_html,
)
from ed2.ui.wiring import QUIET, SPOKEN, Updates, Values, fill, refusal
from ed2.vram.card import card_for

MODEL_FILES = (BASE, "vae", "lora_base")
"""Settings whose files tell what the model is."""
JSON_INFO = (
    "Apply sets the values listed here. Folders, base model, project name and prompts stay unless they are listed; all "
    "other settings return to their defaults. Clear the box to show the form again."
)


class SettingsTab:
    """Everything that can be set for a run, and presets of it."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        with gr.Row(elem_id="settings-layout"):
            with gr.Column(elem_id="settings-main"):
                self.presets = PresetPanel(context, form)
                gr.HTML(toolbar_html(), js_on_load="ed.settings.render()", elem_id="settings-toolbar")
                gr.HTML(FOUND_HTML, js_on_load=None)
                self._fields()
                self.presets.place_own()
                self._command_and_json()
            self.memory = MemoryPanel(context, form)
        # Gradio 6.31 gives JavaScript only what is in a component: the number of the form, the form as JSON, its facts
        self._turn, self._current = gr.Number(0, precision=0, visible=False), gr.Textbox(visible=False)
        self._facts = gr.Textbox(visible=False)

    def _fields(self) -> None:
        """The fields by group. Which of them are shown, and where, is decided in the browser."""
        with gr.Column(elem_id="settings-fields"):
            with gr.Column(elem_classes="ed-group", elem_id="settings-method"):
                self._form.add([METHOD])
            for group in groups():
                names = settings_of(group)
                if not names:
                    continue
                with gr.Column(elem_classes="ed-group", elem_id=f"settings-{group}"):
                    gr.HTML(heading_html(group), js_on_load=None, elem_classes="ed-group-head")
                    self._form.add(names)
                    if BASE in names:
                        self.models = ModelBrowser(self._context)

    def _command_and_json(self) -> None:
        with gr.Accordion("Equivalent command", open=False):
            label = "Command for the same run without a browser"
            self.command = gr.Textbox(label=label, lines=3, interactive=False, elem_id="equivalent-command")
            with gr.Row(elem_classes="ed-actions"):
                self.copy = gr.Button("Copy", elem_id="copy-command-button", min_width=100)
        with gr.Accordion("Raw JSON", open=False):
            label = "Settings that differ from the defaults"
            self.raw = gr.Textbox(
                label=label, lines=8, max_lines=30, interactive=True, elem_id="raw-json", info=JSON_INFO
            )
            self.apply = gr.Button("Apply JSON", elem_id="apply-json-button")

    def wire(self) -> None:
        """Connect everything, once every control exists."""
        inputs, preset = self._form.inputs, self.presets.choice
        applied = fill(self.apply.click, self.apply_json, [self.raw, *inputs], inputs, **SPOKEN)
        self.apply.click(None, self.raw, None, js="ed.sendJson")
        applied.then(None, None, None, js="ed.jsonApplied")
        self.filled = [*self.presets.wire(), applied]
        self.copy.click(None, self.command, None, js="ed.copy")
        for event in [*self.filled, *self.memory.wire(), *self.models.wire(self._form)]:
            self.follow(event.then)  # these fill fields that the browser has not drawn yet, which report no change
        changes = [control.change for control in (preset, self.memory.card, *inputs)]
        self.follow(lambda *given, **how: gr.on(changes, *given, trigger_mode="always_last", **how))
        self.raw.blur(None, [self._current, self.raw], self.raw, js="ed.followForm")

    def follow(self, event: Any) -> None:
        """At this event save the draft and show what the form comes to."""
        inputs = [self._turn, self.presets.choice, self.memory.card, *self._form.inputs]
        outputs = [*self.memory.outputs, self.presets.preview, self.command, self._current, self._facts]

        def describe(request: gr.Request, *values: Any) -> Updates:
            return self.describe_form(request, dict(zip(inputs, values, strict=True)))

        followed = event(describe, inputs, outputs, js="ed.numberForm", **QUIET)
        followed.then(None, [self._current, self.raw], self.raw, js="ed.followForm")
        followed.then(None, self._facts, None, js="ed.settings.show")

    def apply_json(self, _: gr.Request, held: Values) -> Updates:
        """Fill the form with settings that were typed as JSON."""
        try:
            values = parse_json(held[self.raw] or "{}")
            with_defaults(values)
        except ValueError as error:
            raise refusal(f"Invalid JSON: {error}") from None
        except (Ed2Error, TypeError) as error:
            raise refusal(str(error)) from None
        return self._form.show(changed_form(values))

    def describe_form(self, request: gr.Request, held: Values) -> Updates:
        """Save the draft; what it comes to, what a preset would change, the form as a command and as JSON.

        The turn is 0 until the page shows the draft: what its form holds before that is nobody's.
        """
        turn, preset, card_gb = held[self._turn], held[self.presets.choice], held[self.memory.card]
        if not turn:
            return gr.skip()
        values, page = self._form.read(held), self._context.pages.of(request)
        with contextlib.suppress(OSError):  # only a convenience: the page still holds the form
            if not self._context.keep_form(values, page, int(turn)):
                return gr.skip()
        if page.planned_gb != card_gb:
            page.planned_gb = card_gb
            with contextlib.suppress(OSError):
                self._context.user.keep_planned_gb(card_gb)
        own = differing(values, defaults())
        updates = self.memory.updates(request, values, card_gb)
        updates[self.presets.preview] = self.presets.preview_html(values, preset)
        updates[self.command] = command_of(own)
        updates[self._current] = json.dumps(own, indent=2, ensure_ascii=False)
        updates[self._facts] = self.facts(values, preset, card_gb).as_json()
        return updates

    def facts(self, values: dict[str, object], preset: str | None, card_gb: float) -> FormFacts:
        """What the browser has to know of a form to show the right fields."""
        absolute, problems = absolute_paths(values, PROGRAM_DIR), self._problems(values)
        settings = as_far_as_valid(absolute)
        if any(problem.path in MODEL_FILES for problem in problems):  # they may be files that the page must not open
            settings = settings.replaced(**dict.fromkeys(MODEL_FILES, ""))
        family = FACTS[model_sizes(settings).family]
        on_gpu = bool(card_gb) or card_for(settings.run.device).kind == "cuda"
        try:
            changed = self.presets.changes(values, preset)
        except SettingsError:
            changed = {}
        return FormFacts(
            not_applicable(settings, family),
            tuple(changed),
            problems_by_setting([*self._context.service.snapshot().problems, *problems]),
            in_force(settings, family, on_gpu=on_gpu),
            f"the preset “{preset}”" if preset in self._context.user.presets() else "the defaults",
            self._context.is_check_outdated(settings),
        )

    def _problems(self, values: Mapping[str, object]) -> tuple[Problem, ...]:
        """What is wrong with a form."""
        try:
            with_defaults(self._context.require_allowed(values))
        except ProblemsError as error:
            return error.problems
        return ()


def command_of(values: Mapping[str, object]) -> str:
    """The command line that starts a run with these settings."""
    words = TRAIN_COMMAND.split()
    for name, value in absolute_paths(values, PROGRAM_DIR).items():
        if value is True:
            words.append(f"--{name}")
        elif value is False:
            words.append(f"--{name}=false" if fields()[name].is_plain_switch else f"--no-{name}")
        elif isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}", "none" if value is None else str(value)]
    return shlex.join(words)
