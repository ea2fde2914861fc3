"""The Settings tab: ten essentials, all others folded by group, presets, and the resulting steps and memory."""

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from ed2.app.checks.forecast import forecast
from ed2.errors import Ed2Error, Problem, ProblemsError, SettingsError
from ed2.settings.fields import fields, groups, label_of
from ed2.settings.files import PROGRAM_DIR, TRAIN_COMMAND, absolute_paths, with_defaults
from ed2.small_files import parse_json
from ed2.text import counted
from ed2.ui.context import Context
from ed2.ui.folder_browser import ModelBrowser
from ed2.ui.form import BASE, ELSEWHERE, ESSENTIALS, Form, changed_form, defaults, form_of_preset, short_path
from ed2.ui.html import escape, list_html, note_html, on_page, problems_html
from ed2.ui.memory_panel import MemoryPanel
from ed2.ui.wiring import QUIET, SPOKEN, Updates, fill, refusal

JSON_INFO = (
    "Apply sets the values listed here. Folders, base model, project name and prompts stay unless they are listed; all "
    "other settings return to their defaults. Clear the box to show the form again."
)
RESET_QUESTION = "Reset all settings to their defaults, including image folders, base model, project name and prompts?"
LISTED_IN_STRIP = "Fix the problems listed under Train to see steps and memory."


class SettingsTab:
    """Everything that can be set for a run, and presets of it."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        self._presets_row()
        self.difference = gr.HTML("", js_on_load=None, elem_id="preset-difference")
        with gr.Row():
            with gr.Column(min_width=300):
                form.add(ESSENTIALS[:2])
                self.models = ModelBrowser(context)
                form.add(ESSENTIALS[2:5])
            with gr.Column(min_width=300):
                form.add(ESSENTIALS[5:])
        self.memory = MemoryPanel(context, form)
        self.forecast = gr.HTML("", js_on_load=None, elem_id="forecast")
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            for group, model in groups().items():
                names = _advanced_of(group)
                if names:
                    with gr.Accordion((model.__doc__ or group).strip(), open=False):
                        form.add(names)
        self._command_and_json()
        # Gradio 6.31 gives JavaScript only what is in a component: the number of the form, and the form as JSON
        self._turn, self._current = gr.Number(0, precision=0, visible=False), gr.Textbox(visible=False)

    def _presets_row(self) -> None:
        with gr.Row():
            presets = list(self._context.user.presets())
            self.preset = gr.Dropdown(
                presets, value=None, label="Preset", min_width=240, elem_id="preset-choice", interactive=True, scale=3
            )
            self.load = gr.Button("Load preset", elem_id="load-preset-button", min_width=140, scale=0)
            self.reset = gr.Button("Reset to defaults", elem_id="reset-button", min_width=180, scale=0)
        with gr.Row(visible=False, elem_id="reset-question", elem_classes="ed-actions") as self.asking:
            gr.HTML(note_html(RESET_QUESTION), js_on_load=None)
            self.confirm = gr.Button("Reset all", variant="stop", elem_id="confirm-reset-button", min_width=120)
            self.keep = gr.Button("Keep", elem_id="keep-settings-button", min_width=120)
        with gr.Accordion("Save as preset", open=False):
            self.name = gr.Textbox(label="Preset name", elem_id="preset-name", max_lines=1, interactive=True)
            self.save = gr.Button("Save preset", elem_id="save-preset-button")

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
        inputs, preset = self._form.inputs, self.preset
        applied = fill(self.apply.click, self.apply_json, [self.raw, *inputs], inputs, **SPOKEN)
        self.apply.click(None, self.raw, None, js="ed.sendJson")
        applied.then(None, None, None, js="ed.jsonApplied")
        self.filled = [
            fill(self.load.click, self.load_preset, [preset, *inputs], inputs, **SPOKEN),
            fill(self.confirm.click, self.reset_form, inputs, inputs, [self.asking], **QUIET),
            applied,
        ]
        self.reset.click(lambda: gr.update(visible=True), None, self.asking, **QUIET)
        self.keep.click(lambda: gr.update(visible=False), None, self.asking, **QUIET)
        fill(self.save.click, self.save_preset, [preset, self.name, *inputs], [preset], [preset], **SPOKEN)
        self.copy.click(None, self.command, None, js="ed.copy")
        for event in [*self.filled, *self.memory.wire(), *self.models.wire(self._form)]:
            self.follow(event.then)  # these fill fields that the browser has not drawn yet, which report no change
        changes = [control.change for control in (preset, self.memory.card, *inputs)]
        self.follow(lambda *given, **how: gr.on(changes, *given, trigger_mode="always_last", **how))
        self.raw.blur(None, [self._current, self.raw], self.raw, js="ed.followForm")

    def follow(self, event: Any) -> None:
        """At this event save the draft and show the resulting steps and memory."""
        inputs = [self._turn, self.preset, self.memory.card, *self._form.inputs]
        memory = [self.memory.plan, self.memory.answer]
        outputs = [self.forecast, *memory, self.difference, self.command, self._current]
        followed = event(self.describe_form, inputs, outputs, js="ed.numberForm", **QUIET)
        followed.then(None, [self._current, self.raw], self.raw, js="ed.followForm")

    def preset_choices(self) -> Any:
        """The available presets, for a newly opened page."""
        return gr.update(choices=list(self._context.user.presets()))

    def load_preset(self, _: gr.Request, title: str | None, *raw: Any) -> Updates:
        """Fill the form with the chosen preset."""
        base = str(self._form.read(raw)[BASE] or "")
        presets = self._context.user.presets()
        path = presets.get(title or "")
        if path is None:
            raise refusal("Choose a preset first.")
        try:
            return self._form.show(form_of_preset(path, base, presets.values()))
        except SettingsError as error:
            raise refusal(str(error)) from None

    def reset_form(self, *_: Any) -> Updates:
        """The defaults, and the runs folder that the command line names."""
        values = defaults()
        if "logdir" in self._context.begin:
            values["logdir"] = self._context.begin["logdir"]
        return {**self._form.show(values), self.asking: gr.update(visible=False)}

    def save_preset(self, _: gr.Request, __: str | None, name: str, *raw: Any) -> Updates:
        """Save what differs from the defaults as the user's own preset, and choose it."""
        try:
            values = absolute_paths(self._form.read(raw), PROGRAM_DIR)
            title = self._context.user.keep_preset(name, _differing(values, absolute_paths(defaults(), PROGRAM_DIR)))
        except (Ed2Error, OSError) as error:
            raise refusal(str(error)) from None
        gr.Info("Preset saved.", duration=4)
        return {self.preset: gr.update(value=title, choices=list(self._context.user.presets()))}

    def apply_json(self, _: gr.Request, text: str, *__: Any) -> Updates:
        """Fill the form with settings that were typed as JSON."""
        try:
            values = parse_json(text or "{}")
            with_defaults(values)
        except ValueError as error:
            raise refusal(f"Invalid JSON: {error}") from None
        except (Ed2Error, TypeError) as error:
            raise refusal(str(error)) from None
        return self._form.show(changed_form(values))

    def describe_form(
        self, request: gr.Request, turn: int | None, preset: str | None, card_gb: float, *raw: Any
    ) -> Updates:
        """Save the draft; what it comes to, how it differs from the preset, as a command and as JSON.

        The turn is 0 until the page shows the draft: what its form holds before that is nobody's.
        """
        if not turn:
            return gr.skip()
        values = self._form.read(raw)
        with contextlib.suppress(OSError):  # only a convenience: the page still holds the form
            if not self._context.keep_form(values, self._context.pages.of(request), int(turn)):
                return gr.skip()
        own = _differing(values, defaults())
        updates = self.forecast_of(values, card_gb)
        updates |= self.memory.drop_old_answer(request, card_gb, values)
        updates[self.difference] = self.difference_html(values, preset)
        updates[self.command] = command_of(own)
        updates[self._current] = json.dumps(own, indent=2, ensure_ascii=False)
        return updates

    def forecast_of(self, values: dict[str, object], card_gb: float) -> Updates:
        """The resulting steps, disk space and memory of a form, or the problems that are not listed in the strip."""
        try:
            settings = with_defaults(self._context.require_allowed(values))
        except ProblemsError as error:
            return {self.forecast: self._problems_html(error.problems), self.memory.plan: ""}
        lines = forecast(settings, self._context.checked, card_gb or None)
        text = "<br>".join(escape(on_page(line)) for line in lines)
        html = f'<div class="ed-card"><p class="ed-note">{text}</p></div>'
        return {self.forecast: html, self.memory.plan: self.memory.plan_of(settings, card_gb)}

    def _problems_html(self, problems: Sequence[Problem]) -> str:
        in_strip = self._context.service.snapshot().problems
        others = [problem for problem in problems if problem not in in_strip]
        if not others:
            return note_html(LISTED_IN_STRIP)
        return problems_html(others, box_id="settings-problems")

    def difference_html(self, values: dict[str, object], title: str | None) -> str:
        """What loading the preset would change."""
        presets = self._context.user.presets()
        name, loaded = "the defaults", changed_form({})
        if title in presets:
            name = "this preset"
            try:
                loaded = form_of_preset(presets[title], values[BASE], presets.values())
            except SettingsError:
                return ""
        base = {**values, **loaded}
        own = _differing(absolute_paths(values, PROGRAM_DIR), absolute_paths(base, PROGRAM_DIR))
        if not own:
            return note_html(f"The form matches {name}.")
        changes = []
        for setting, value in own.items():
            changes.append(escape(f"{label_of(setting)}: {_as_text(base[setting])} → {_as_text(value)}"))
        summary = f"{counted(len(own), 'change')} from {name}"
        return f'<details class="ed-note"><summary>{summary}</summary>{list_html(changes)}</details>'


def _advanced_of(group: str) -> list[str]:
    """The settings of a group that have no other place on the page."""
    if group == "sampling":
        return []
    elsewhere = (*ESSENTIALS, *ELSEWHERE)
    return [name for name, spec in fields().items() if spec.group == group and name not in elsewhere]


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value in (None, "", []):
        return "empty"
    items = value if isinstance(value, list) else [value]
    return ", ".join(short_path(str(item)) for item in items)


def _differing(values: Mapping[str, object], base: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value != base.get(name)}


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
