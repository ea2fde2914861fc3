"""Presets: what each is for and what it would change, loading it, and the user's own."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ed2.app.user_files import OWN
from ed2.errors import SettingsError
from ed2.settings.fields import label_of
from ed2.settings.files import PROGRAM_DIR, absolute_paths, read_preset
from ed2.text import counted
from ed2.ui.context import Context
from ed2.ui.form import BASE, KEPT_BY_RESET, Form, defaults, form_of_preset, short_path
from ed2.ui.html import escape, list_html, note_html
from ed2.ui.wiring import QUIET, SPOKEN, Updates, Values, fill, refusal, refusing

RESET_QUESTION = "Reset all settings to their defaults? Image folders, base model and the folders to save in stay."
CHOOSE_FIRST = "Choose a preset first."


class PresetPanel:
    """Above the form: the choice of a preset, and *Reset*."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        with gr.Row(elem_id="preset-row"):
            self.choice = gr.Dropdown(
                list(context.user.presets()),
                value=None,
                label="Preset",
                min_width=240,
                elem_id="preset-choice",
                interactive=True,
                scale=3,
            )
            self.load = gr.Button("Load preset", elem_id="load-preset-button", min_width=140, scale=0)
            self.reset = gr.Button("Reset to defaults", elem_id="reset-button", min_width=180, scale=0)
        self.question, _, self.confirm, self.keep = _question("reset", RESET_QUESTION, "Reset all")
        self.preview = gr.HTML("", js_on_load=None, elem_id="preset-difference")

    def place_own(self) -> None:
        """Make the controls of the user's own presets here."""
        with gr.Accordion("Save, rename or delete a preset", open=False, elem_id="own-presets"):
            self.name = gr.Textbox(label="Preset name", elem_id="preset-name", max_lines=1, interactive=True)
            with gr.Row(elem_classes="ed-actions"):
                self.save = gr.Button("Save preset", elem_id="save-preset-button", min_width=120)
                self.rename = gr.Button("Rename", elem_id="rename-preset-button", min_width=100, interactive=False)
                self.delete = gr.Button("Delete", elem_id="delete-preset-button", min_width=100, interactive=False)
            self.doubt, self.text, self.go_on, self.stay = _question("preset", "", "Delete")

    def wire(self) -> list[Any]:
        """Connect the buttons, once every control of the form exists.

        Returns:
            The events that change the form.
        """
        inputs, choice = self._form.inputs, self.choice
        self.reset.click(lambda: gr.update(visible=True), None, self.question, **QUIET)
        self.keep.click(lambda: gr.update(visible=False), None, self.question, **QUIET)
        own = [self.rename, self.delete, self.doubt]
        named, asked = [choice, self.name], [self.doubt, self.text, self.go_on]
        choice.change(self.allow, choice, own, **QUIET)
        for event in (self.save.click, self.go_on.click):
            answer = self.ask_or_save if event == self.save.click else self.replace_or_delete
            fill(event, answer, [*named, self.go_on, *inputs], [choice], [choice, *asked], **SPOKEN)
        fill(self.rename.click, self.rename_own, named, [choice], [choice], **SPOKEN)
        self.delete.click(self.ask_to_delete, choice, asked, **QUIET)
        self.stay.click(lambda: gr.update(visible=False), None, self.doubt, **QUIET)
        return [
            fill(self.load.click, self.load_preset, [choice, *inputs], inputs, **SPOKEN),
            fill(self.confirm.click, self.reset_form, inputs, inputs, [self.question], **QUIET),
        ]

    def choices(self, **how: Any) -> Any:
        """The available presets, as an update of the choice."""
        return gr.update(choices=list(self._context.user.presets()), **how)

    def load_preset(self, _: gr.Request, held: Values) -> Updates:
        """Fill the form with the chosen preset."""
        base = str(self._form.read(held)[BASE] or "")
        presets = self._context.user.presets()
        path = presets.get(held[self.choice] or "")
        if path is None:
            raise refusal(CHOOSE_FIRST)
        with refusing():
            return self._form.show(form_of_preset(path, base, presets.values()))

    def reset_form(self, _: gr.Request, held: Values) -> Updates:
        """The defaults, except for the folders and the base model."""
        kept = {name: value for name, value in self._form.read(held).items() if name in KEPT_BY_RESET}
        return {**self._form.show({**defaults(), **kept}), self.question: gr.update(visible=False)}

    def allow(self, title: str | None) -> Updates:
        """Which presets can be renamed and deleted: the user's own."""
        is_own = gr.update(interactive=title in self._context.user.own_presets())
        return {self.rename: is_own, self.delete: is_own, self.doubt: gr.update(visible=False)}

    def ask_or_save(self, _: gr.Request, held: Values) -> Updates:
        """Save what differs from the defaults as the user's own preset; ask first where that replaces one."""
        name = held[self.name].strip()
        if f"{OWN}{name}" in self._context.user.own_presets():
            return self._ask(f"Replace the preset “{name}” with the settings of the form?", "Replace")
        return self._saved(held)

    def replace_or_delete(self, _: gr.Request, held: Values) -> Updates:
        """Do what was asked before, as the label of the button said."""
        if held[self.go_on] == "Replace":
            return {**self._saved(held), self.doubt: gr.update(visible=False)}
        with refusing("The preset cannot be deleted"):
            self._context.user.remove_preset(held[self.choice] or "")
        gr.Info("Preset deleted.", duration=4)
        return {self.choice: self.choices(value=None), self.doubt: gr.update(visible=False)}

    def rename_own(self, _: gr.Request, held: Values) -> Updates:
        """Give the chosen preset the name in the field."""
        with refusing("The preset cannot be renamed"):
            new = self._context.user.rename_preset(held[self.choice] or "", held[self.name])
        gr.Info("Preset renamed.", duration=4)
        return {self.choice: self.choices(value=new)}

    def ask_to_delete(self, title: str | None) -> Updates:
        """Ask before the chosen preset is deleted."""
        return self._ask(f"Delete the preset “{(title or '').removeprefix(OWN)}”? It cannot be restored.", "Delete")

    def _ask(self, question: str, label: str) -> Updates:
        told = note_html(question)
        return {self.doubt: gr.update(visible=True), self.text: told, self.go_on: gr.update(value=label)}

    def _saved(self, held: Values) -> Updates:
        own = differing(absolute_paths(self._form.read(held), PROGRAM_DIR), absolute_paths(defaults(), PROGRAM_DIR))
        with refusing("The preset cannot be saved"):
            title = self._context.user.keep_preset(held[self.name], own)
        gr.Info("Preset saved.", duration=4)
        return {self.choice: self.choices(value=title)}

    def changes(self, values: dict[str, object], title: str | None) -> dict[str, object]:
        """What loading a preset would change in a form, or without one a reset: the new value by setting.

        Raises:
            SettingsError: the preset cannot be read.
        """
        presets = self._context.user.presets()
        loaded = {name: value for name, value in defaults().items() if name not in KEPT_BY_RESET}
        if title in presets:
            loaded = form_of_preset(presets[title], values[BASE], presets.values())
        now = absolute_paths(values, PROGRAM_DIR)
        return differing(absolute_paths({**values, **loaded}, PROGRAM_DIR), now)

    def preview_html(self, values: dict[str, object], title: str | None) -> str:
        """What the chosen preset is for, and what loading it would change."""
        presets = self._context.user.presets()
        if title not in presets:
            return ""
        try:
            changes, about = self.changes(values, title), read_preset(presets[title]).about
        except SettingsError as error:
            return note_html(str(error))
        html = f"<p>{escape(about.get('for', 'Your own preset.'))}</p>"
        if not changes:
            html += note_html("The form matches this preset.")
        else:
            rows = [_change_html(name, values[name], new) for name, new in changes.items()]
            html += note_html(f"Loading it changes {counted(len(rows), 'setting')}:") + list_html(rows, "ed-changes")
        if "source" in about:
            source = note_html(about["source"])
            html += f'<details class="ed-note"><summary>Where its values come from</summary>{source}</details>'
        return f'<div class="ed-card">{html}</div>'


def _question(name: str, text: str, yes: str) -> tuple[Any, Any, Any, Any]:
    """A hidden row that asks before something is lost: the row, the question, and the buttons for yes and no."""
    with gr.Row(visible=False, elem_id=f"{name}-question", elem_classes="ed-actions ed-question") as row:
        question = gr.HTML(note_html(text), js_on_load=None)
        confirm = gr.Button(yes, variant="stop", elem_id=f"confirm-{name}-button", min_width=120)
        keep = gr.Button("Keep", elem_id=f"keep-{name}-button", min_width=120)
    return row, question, confirm, keep


def _change_html(name: str, old: object, new: object) -> str:
    change = f"{as_text(old)} → {as_text(new)}"
    return f'{escape(label_of(name))} <span class="ed-flag">--{name}</span>: <b>{escape(change)}</b>'


def as_text(value: object) -> str:
    """A value as a person reads it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value in (None, "", []):
        return "empty"
    items = value if isinstance(value, list) else [value]
    return ", ".join(short_path(str(item)) for item in items)


def differing(values: Mapping[str, object], base: Mapping[str, object]) -> dict[str, object]:
    """Those of the values that are not the same in `base`."""
    return {name: value for name, value in values.items() if value != base.get(name)}
