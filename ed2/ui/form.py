"""The form: one control for each setting, made from the schema, and what a preset changes in it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.user_files import preset_values
from ed2.errors import SettingsError
from ed2.models.files.hub import PUBLIC_NAME
from ed2.settings.fields import FieldSpec, fields, label_of
from ed2.settings.files import PROGRAM_DIR, absolute_paths, unquoted

ESSENTIALS = (
    "project_name", "resume_ckpt", "resolution", "batch_size", "max_epochs", "lr", "lr_scheduler",
    "gradient_checkpointing", "useadam8bit", "ckpt_every_n_minutes",
)  # fmt: skip
ELSEWHERE = ("data_root",)
"""Settings with a place in another tab, beside the group Sampling."""
OWN = ("data_root", "resume_ckpt", "project_name", "logdir", "save_ckpt_dir", "sample_prompts")
"""What a person chooses for a run, not for a card: it stays unless it is named."""
BASE = "resume_ckpt"
AUTOMATIC = "automatic"


class Form:
    """The controls by the name of their setting, made one by one where they belong."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = {**defaults(), **values}
        self.controls: dict[str, Any] = {}

    def add(self, names: Iterable[str]) -> None:
        """Make the controls of these settings here."""
        for name in names:
            spec = fields()[name]
            self.controls[name] = control(spec, shown(spec, self._values[name]))

    @property
    def inputs(self) -> list[Any]:
        """Every control, in the order of `values_of`."""
        return list(self.controls.values())

    def values_of(self, raw: Sequence[Any]) -> dict[str, object]:
        """Flat settings out of what the controls hold; what cannot be read stays as it is, for the checks to refuse."""
        return {name: value_of(fields()[name], value) for name, value in zip(self.controls, raw, strict=True)}

    def shown(self, values: Mapping[str, object]) -> list[Any]:
        """What the controls show for these settings; those that are not named are left alone."""
        return [shown(fields()[name], values[name]) if name in values else gr.skip() for name in self.controls]


def defaults() -> dict[str, object]:
    """Every setting's default."""
    settings = fields().items()
    return {n: list(s.default) if s.many and s.default is not None else s.default for n, s in settings}


def control(spec: FieldSpec, value: Any) -> Any:
    """The control of a setting."""
    common: dict[str, Any] = {"label": label_of(spec.name), "info": spec.help, "elem_id": spec.name}
    if spec.kind is bool:
        return gr.Checkbox(bool(value), interactive=True, **common)
    if spec.choices:
        choices = [(str(choice), choice) for choice in spec.choices]
        choices = [(AUTOMATIC, ""), *choices] if spec.optional else choices
        return gr.Dropdown(choices, value=value, interactive=True, **common)
    if spec.kind is str:
        return gr.Textbox(
            value, lines=2 if spec.many else 1, max_lines=6 if spec.many else 1, interactive=True, **common
        )
    if spec.kind is float and (spec.low, spec.high) == (0, 1) and not spec.low_excluded and not spec.optional:
        return gr.Slider(0, 1, value, step=0.01, interactive=True, **common)
    if spec.optional:  # Gradio's field for numbers turns empty into 0
        return gr.Textbox(value, placeholder=AUTOMATIC, max_lines=1, interactive=True, **common)
    # No bounds here: what is out of them is told beside the Train button, with all else that is wrong.
    return gr.Number(value, step=1 if spec.kind is int else 0.000001, interactive=True, **common)


def shown(spec: FieldSpec, value: Any) -> Any:
    """A setting's value as its control shows it."""
    if spec.many:
        items = value if isinstance(value, list | tuple) else [] if value is None else [value]
        return "\n".join(short_path(str(item)) for item in items)
    if spec.is_path and isinstance(value, str):
        return short_path(value)
    if spec.optional and not spec.choices and spec.kind is not bool:
        return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return "" if value is None else value


def value_of(spec: FieldSpec, raw: Any) -> object:
    """A setting's value out of its control."""
    if spec.many:
        parts = str(raw or "").splitlines() if spec.kind is str else str(raw or "").replace(",", " ").split()
        items = [_number(spec, text) for part in parts if (text := _without_quotes(spec, part))]
        return items if items or not spec.optional else None
    if spec.kind is str and isinstance(raw, str):
        raw = _without_quotes(spec, raw)
    if spec.optional and raw in ("", None):
        return None
    if isinstance(raw, bool):
        return raw
    return _number(spec, raw) if spec.kind in (int, float) and not spec.choices else raw


def _without_quotes(spec: FieldSpec, text: str) -> str:
    text = text.strip()
    return unquoted(text) if spec.is_path else text


def _number(spec: FieldSpec, raw: Any) -> object:
    """A number out of what was typed; what is none stays as it is."""
    if spec.kind is str:
        return raw
    try:
        number = float(raw)
    except (TypeError, ValueError):
        return raw
    return int(number) if spec.kind is int and number.is_integer() else number


def short_path(path: str) -> str:
    """A path from the program's folder where it lies below, as presets write it."""
    base = f"{PROGRAM_DIR}/"
    return path.removeprefix(base) if path.startswith(base) else path


def changes_of(named: Mapping[str, object]) -> dict[str, object]:
    """What the form gets from settings that name some: those, and the defaults of all others but the person's own."""
    return {**{name: value for name, value in defaults().items() if name not in OWN}, **named}


def changes_by_preset(preset: Path, base: object, presets: Iterable[Path]) -> dict[str, object]:
    """What the form gets from a preset.

    The public name of a base model is a suggestion: it does not replace a model that the person has chosen.

    Args:
        preset: its file.
        base: the base model of the form.
        presets: all there are: a base that one of them names was not chosen by hand.

    Raises:
        SettingsError: the preset cannot be read.
    """
    named = preset_values(preset)
    chosen = absolute_paths({BASE: base}, PROGRAM_DIR)[BASE]
    if chosen and _is_public(named.get(BASE)) and chosen not in map(_base_of, presets):
        del named[BASE]
    return changes_of(named)


def _is_public(base: object) -> bool:
    return isinstance(base, str) and PUBLIC_NAME.fullmatch(base) is not None


def _base_of(preset: Path) -> object:
    try:
        return preset_values(preset).get(BASE)
    except SettingsError:
        return None
