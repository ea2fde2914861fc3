"""The tab Settings: ten essentials, all others folded by group, presets, and what they come to."""

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from ed2.app.checks.forecast import forecast
from ed2.errors import Ed2Error, Problem, ProblemsError, SettingsError
from ed2.settings.fields import fields, groups, label_of
from ed2.settings.files import PROGRAM_DIR, TRAIN_COMMAND, absolute_paths, with_defaults
from ed2.small_files import parse_json
from ed2.ui.context import Context
from ed2.ui.folder_browser import ModelChooser
from ed2.ui.form import BASE, ELSEWHERE, ESSENTIALS, Form, changes_by_preset, changes_of, defaults, short_path
from ed2.ui.html import problems_html
from ed2.ui.labels import on_page
from ed2.ui.memory_panel import MemoryPanel
from ed2.ui.wiring import QUIET, SPOKEN, fill, refusal

COPY = """text => { if (navigator.clipboard) navigator.clipboard.writeText(text); }"""
RAW_INFO = (
    "Applied, it sets what it names. Folders, base model, project name and prompts stay unless it names them; all else "
    "goes to its default. What you type stays until it is applied; emptied, the field shows the form again."
)
FOLLOW = """(own, shown, applied, raw) => {
  const field = document.querySelector('#raw-json textarea'), none = {__type__: 'update'};
  const isMine = raw ? raw !== shown && raw !== applied : field && field === document.activeElement;
  return isMine ? [none, none, none] : [own, '', own]; }"""
"""The JSON follows the form, but what a person typed there and did not apply stays."""

AT_DEFAULTS = "All settings are at their defaults."
TURN = """(_, ...held) => { window.edTurn = (window.edTurn ?? 0) + 1;
  return [`${performance.timeOrigin} ${String(window.edTurn).padStart(9, '0')}`, ...held]; }"""
"""Which page sends its form, and for which time: two may be on their way at once, with the older one in the rear."""

IN_STRIP = "The steps and the memory are told once what is listed below the Train button is mended."


class SettingsTab:
    """Everything that a run can be told, and presets of it."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        self._presets_row()
        self.difference = gr.HTML("", js_on_load=None, elem_id="preset-difference")
        with gr.Row():
            with gr.Column(min_width=300):
                form.add(ESSENTIALS[:2])
                self.models = ModelChooser(context)
                form.add(ESSENTIALS[2:5])
            with gr.Column(min_width=300):
                form.add(ESSENTIALS[5:])
        self.memory = MemoryPanel(context, form)
        self.forecast = gr.HTML("", js_on_load=None, elem_id="forecast")
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            for group, model in groups().items():
                inside = [name for name, spec in fields().items() if spec.group == group and _is_here(name, group)]
                if inside:
                    with gr.Accordion((model.__doc__ or group).strip(), open=False):
                        form.add(inside)
        with gr.Accordion("Equivalent command", open=False):
            self.command = gr.Textbox(label="The same run without a browser", lines=3, interactive=False,
                                      elem_id="equivalent-command")  # fmt: skip
            with gr.Row(elem_classes="ed-actions"):
                self.copy = gr.Button("Copy", elem_id="copy-command-button", min_width=100)
        with gr.Accordion("Raw JSON", open=False):
            self.raw = gr.Textbox(label="What differs from the defaults", lines=8, max_lines=30, interactive=True,
                                  elem_id="raw-json", info=RAW_INFO)  # fmt: skip
            self._turn = gr.Textbox(visible=False)
            self._own, self._shown, self._applied = (gr.Textbox(visible=False) for _ in range(3))
            """The form as JSON; as it was shown last; and what was applied since."""
            self.apply = gr.Button("Apply the JSON", elem_id="apply-json-button")

    def _presets_row(self) -> None:
        with gr.Row():
            self.preset = gr.Dropdown(list(self._context.user.presets()), value=None, label="Preset", min_width=240,
                                      elem_id="preset-choice", interactive=True, scale=3)  # fmt: skip
            self.load = gr.Button("Load preset", elem_id="load-preset-button", min_width=140, scale=0)
            self.reset = gr.Button("Reset to defaults", elem_id="reset-button", min_width=180, scale=0)
        with gr.Accordion("Save as my own preset", open=False):
            self.name = gr.Textbox(label="Name of the preset", elem_id="preset-name", max_lines=1, interactive=True)
            self.keep = gr.Button("Save preset", elem_id="save-preset-button")

    def wire(self, ready: gr.State) -> None:
        """Connect everything, once every control is made; `ready` says that the page shows the draft."""
        inputs = self._form.inputs
        self._told_inputs = [self._turn, ready, self.preset, self.memory.card, *inputs]
        self._told_outputs = [self.forecast, self.memory.shown, self.difference, self.command, self._own]
        self.filled = [
            fill(self.load.click, self._load, [self.preset, *inputs], inputs, **SPOKEN),
            fill(self.reset.click, lambda *_: self._form.shown(self._at_first()), inputs, inputs, **QUIET),
            fill(self.apply.click, self._apply, [self.raw, *inputs], inputs, [self._applied], **SPOKEN),
        ]
        changed = [*self.filled, *self.memory.wire(), *self.models.wire(self._form)]
        fill(self.keep.click, self._keep, [self.preset, self.name, *inputs], [self.preset], [self.preset], **SPOKEN)
        self.copy.click(None, self.command, None, js=COPY)
        for event in changed:  # these change fields that the browser has not drawn yet, which tell of no change
            self.tell(event.then)
        events = [control.change for control in (self.preset, self.memory.card, *inputs)]
        self.tell(lambda *given, **how: gr.on(events, *given, trigger_mode="always_last", **how))
        self.raw.blur(None, self._follow_inputs, self._follow_inputs[1:], js=FOLLOW)

    def tell(self, event: Any) -> None:
        """At this event keep the draft and tell what it comes to."""
        told = event(self.told, self._told_inputs, self._told_outputs, js=TURN, **QUIET)
        told.then(None, self._follow_inputs, self._follow_inputs[1:], js=FOLLOW)

    @property
    def _follow_inputs(self) -> list[Any]:
        return [self._own, self._shown, self._applied, self.raw]

    def presets(self) -> Any:
        """The presets that there are, for a page that opens."""
        return gr.update(choices=list(self._context.user.presets()))

    def _load(self, title: str | None, *raw: Any) -> list[Any]:
        base = str(self._form.values_of(raw)[BASE] or "")
        presets = self._context.user.presets()
        path = presets.get(title or "")
        if path is None:
            raise refusal("Choose a preset first.")
        try:
            return self._form.shown(changes_by_preset(path, base, presets.values()))
        except SettingsError as error:
            raise refusal(str(error)) from None

    def _at_first(self) -> dict[str, object]:
        """The defaults, and the folder of runs that the command line names."""
        begin = self._context.begin
        return {**defaults(), **({"logdir": begin["logdir"]} if "logdir" in begin else {})}

    def _keep(self, _: str | None, name: str, *raw: Any) -> list[Any]:
        try:
            values = absolute_paths(self._form.values_of(raw), PROGRAM_DIR)
            title = self._context.user.keep_preset(name, _differing(values, absolute_paths(defaults(), PROGRAM_DIR)))
        except (Ed2Error, OSError) as error:
            raise refusal(str(error)) from None
        gr.Info("The preset is saved.", duration=4)
        return [gr.update(value=title), gr.update(choices=list(self._context.user.presets()))]

    def _apply(self, text: str, *_: Any) -> list[Any]:
        try:
            values = parse_json(text or "{}")
            with_defaults(values)
        except ValueError as error:
            raise refusal(f"This is no proper JSON: {error}") from None
        except (Ed2Error, TypeError) as error:
            raise refusal(str(error)) from None
        return [*self._form.shown(changes_of(values)), text]

    def told(self, turn: str, is_ready: bool, preset: str | None, card_gb: float, *raw: Any) -> tuple[Any, ...]:
        """Keep the draft; what it comes to, how it differs from the preset, as a command and as JSON."""
        if not is_ready:
            return (gr.skip(),) * len(self._told_outputs)
        values = self._form.values_of(raw)
        with contextlib.suppress(OSError):  # comfort only: the form is still there
            if not self._context.keep_form(values, turn):
                return (gr.skip(),) * len(self._told_outputs)
        own = _differing(values, defaults())
        text = json.dumps(own, indent=2, ensure_ascii=False)
        return *self._forecast_html(values, card_gb), self._difference_html(values, preset), command_of(own), text

    def _forecast_html(self, values: dict[str, object], card_gb: float) -> tuple[str, str]:
        try:
            settings = with_defaults(self._context.require_allowed(values))
        except ProblemsError as error:
            return self._untold_html(error.problems), ""
        lines = forecast(settings, self._context.checked, card_gb or None)
        html = (
            f'<div class="ed-card"><p class="ed-note">{"<br>".join(escape(on_page(line)) for line in lines)}</p></div>'
        )
        return html, self.memory.told(settings, card_gb)

    def _untold_html(self, problems: Sequence[Problem]) -> str:
        """The problems that do not stand in the strip already."""
        in_strip = self._context.service.snapshot().problems
        untold = [problem for problem in problems if problem not in in_strip]
        return problems_html(untold, box_id="settings-problems") if untold else f'<p class="ed-note">{IN_STRIP}</p>'

    def _difference_html(self, values: dict[str, object], title: str | None) -> str:
        """What loading the preset would change."""
        presets = self._context.user.presets()
        path = presets.get(title or "")
        try:
            new = changes_by_preset(path, values[BASE], presets.values()) if path else changes_of({})
        except SettingsError:
            return ""
        base = {**values, **new}
        own = _differing(absolute_paths(values, PROGRAM_DIR), absolute_paths(base, PROGRAM_DIR))
        if not own:
            return f'<p class="ed-note">{"The form is as in this preset." if path else AT_DEFAULTS}</p>'
        changes = (f"{label_of(name)}: {_told(base[name])} → {_told(value)}" for name, value in own.items())
        items = "".join(f"<li>{escape(change)}</li>" for change in changes)
        count = f"{len(own)} settings differ" if len(own) > 1 else "1 setting differs"
        base_name = "this preset" if path else "the defaults"
        return f'<details class="ed-note"><summary>{count} from {base_name}</summary><ul>{items}</ul></details>'


def _is_here(name: str, group: str) -> bool:
    return name not in (*ESSENTIALS, *ELSEWHERE) and group != "sampling"


def _told(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value in (None, "", []):
        return "empty"
    return ", ".join(short_path(str(item)) for item in (value if isinstance(value, list) else [value]))


def _differing(values: Mapping[str, object], base: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value != base.get(name)}


def command_of(values: Mapping[str, object]) -> str:
    """The command line that starts a run with these settings."""
    words = TRAIN_COMMAND.split()
    for name, value in absolute_paths(values, PROGRAM_DIR).items():
        if isinstance(value, bool):
            is_plain = fields()[name].is_plain_switch
            words += [f"--{name}" if value else f"--{name}=false" if is_plain else f"--no-{name}"]
        elif isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}", "none" if value is None else str(value)]
    return shlex.join(words)
