"""The form: one control for each setting, made from the schema, and what a preset changes in it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.user_files import preset_values
from ed2.errors import SettingsError
from ed2.models.files.base_model import PUBLIC_NAME
from ed2.settings.fields import FieldSpec, fields, label_of
from ed2.settings.files import PROGRAM_DIR, absolute_paths, unquoted
from ed2.ui.wiring import Updates, Values

BASE = "resume_ckpt"
KEPT_BY_PRESETS = ("data_root", BASE, "project_name", "logdir", "save_ckpt_dir", "sample_prompts")
"""Settings that belong to a run, not to a GPU: a preset keeps them unless it names them."""
KEPT_BY_RESET = ("data_root", BASE, "logdir", "save_ckpt_dir")
"""The folders of the user and the base model."""
EIGHT_BIT, OPTIMIZER = "useadam8bit", "optimizer"
AUTOMATIC = "automatic"
SWITCH = {"on": True, "off": False}
"""The choices of a switch that may also be left empty."""


class Form:
    """The controls by the name of their setting, made one by one where they belong."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = {**defaults(), **with_one_optimizer(values)}
        self.controls: dict[str, Any] = {}

    def add(self, names: Iterable[str]) -> None:
        """Make the controls of these settings here."""
        for name in names:
            self.controls[name] = control_of(fields()[name], self._values[name])

    @property
    def inputs(self) -> list[Any]:
        """Every control."""
        return list(self.controls.values())

    def read(self, held: Values) -> dict[str, object]:
        """Flat settings from what the controls hold; what cannot be read stays as it is, for the checks to refuse."""
        return {name: from_control(fields()[name], held[control]) for name, control in self.controls.items()}

    def show(self, values: Mapping[str, object]) -> Updates:
        """What the controls show for these settings."""
        values = with_one_optimizer(values)
        named = self.controls.keys() & values.keys()
        return {self.controls[name]: to_control(fields()[name], values[name]) for name in named}


def with_one_optimizer(values: Mapping[str, object]) -> dict[str, object]:
    """The same settings with `useadam8bit` written as the optimizer that it stands for, so that one control shows both.

    Where `optimizer` names another, both stay, and the checks report it.
    """
    if values.get(EIGHT_BIT) is not True or values.get(OPTIMIZER) not in (None, "adamw8bit"):
        return dict(values)
    return {**values, OPTIMIZER: "adamw8bit", EIGHT_BIT: False}


def defaults() -> dict[str, object]:
    """Every setting's default."""
    values: dict[str, object] = {}
    for name, spec in fields().items():
        is_list = spec.many and spec.default is not None
        values[name] = list(spec.default) if is_list else spec.default
    return values


def control_of(spec: FieldSpec, value: object) -> Any:
    """The control of a setting, holding this value."""
    shown: Any = to_control(spec, value)
    common: dict[str, Any] = {"label": label_of(spec.name), "info": spec.help, "elem_id": spec.name}
    common["interactive"] = True
    if spec.kind is bool and not spec.optional:
        return gr.Checkbox(bool(shown), **common)
    if choices := _choices(spec):
        # Without custom values Gradio silently turns what is no choice into the one before it; this way it is reported.
        return gr.Dropdown(choices, value=shown, allow_custom_value=not spec.optional, **common)
    if spec.kind is str and spec.many:
        return gr.Textbox(shown, lines=2, max_lines=6, **common)
    if spec.kind is str:
        return gr.Textbox(shown, max_lines=1, **common)
    if _is_share(spec):
        return gr.Slider(0, 1, shown, step=0.01, **common)
    if spec.optional:  # Gradio's number field turns empty into 0
        return gr.Textbox(shown, placeholder=AUTOMATIC, max_lines=1, **common)
    # No bounds here: a value out of bounds is listed beside the Train button, with all other problems.
    return gr.Number(shown, step=1 if spec.kind is int else 0.000001, **common)


def _choices(spec: FieldSpec) -> list[tuple[str, Any]]:
    """What can be chosen, each with its label; empty for a setting that is typed."""
    named: list[tuple[str, Any]] = list(SWITCH.items())
    if spec.kind is not bool:
        named = [(str(choice), choice) for choice in spec.choices]
    return [(AUTOMATIC, ""), *named] if spec.optional and named else named


def _is_share(spec: FieldSpec) -> bool:
    return spec.kind is float and (spec.low, spec.high) == (0, 1) and not spec.low_excluded and not spec.optional


def to_control(spec: FieldSpec, value: object) -> object:
    """A setting's value as its control shows it."""
    if _is_nothing(spec, value):
        return ""
    if spec.many:
        items = value if isinstance(value, list | tuple) else [value]
        return "\n".join(short_path(str(item)) for item in items)
    if spec.is_path and isinstance(value, str):
        return short_path(value)
    if spec.optional and not spec.choices and spec.kind is not bool:
        return f"{value:g}" if isinstance(value, float) else str(value)
    return value


def _is_nothing(spec: FieldSpec, value: object) -> bool:
    """Whether a field is empty: there is no value, or it is the default folder of images, which is not there."""
    if spec.name != "data_root" or not isinstance(value, list | tuple):
        return value is None
    return list(value) == list(spec.default) and not any((PROGRAM_DIR / folder).exists() for folder in value)


def from_control(spec: FieldSpec, raw: Any) -> object:
    """A setting's value from what its control holds."""
    if spec.many:
        found = _list_from(spec, str(raw or ""))
        return list(spec.default) if spec.name == "data_root" and not found else found
    if spec.kind is str and isinstance(raw, str):
        raw = _cleaned(spec, raw)
    if spec.optional and raw in ("", None):
        return None
    return raw if isinstance(raw, bool) else _number(spec, raw)


def _list_from(spec: FieldSpec, text: str) -> list[object] | None:
    parts = text.splitlines() if spec.kind is str else text.replace(",", " ").split()
    items = [_number(spec, cleaned) for part in parts if (cleaned := _cleaned(spec, part))]
    return None if spec.optional and not items else items


def _cleaned(spec: FieldSpec, text: str) -> str:
    return unquoted(text.strip()) if spec.is_path else text.strip()


def _number(spec: FieldSpec, raw: Any) -> object:
    """The number that was typed; other text stays as it is."""
    if spec.kind not in (int, float):
        return raw
    try:
        number = float(raw)
    except (TypeError, ValueError):
        return raw
    return int(number) if spec.kind is int and number.is_integer() else number


def short_path(path: str) -> str:
    """A path from the program's folder where it is below that, as presets write it."""
    return path.removeprefix(f"{PROGRAM_DIR}/")


def changed_form(named: Mapping[str, object]) -> dict[str, object]:
    """The form with these settings: all others at their defaults, except those that belong to the run."""
    values = {name: value for name, value in defaults().items() if name not in KEPT_BY_PRESETS}
    return {**values, **named}


def form_of_preset(preset: Path, base: object, presets: Iterable[Path]) -> dict[str, object]:
    """The form after loading a preset.

    The public name of a base model is a suggestion: it does not replace a model that the user has chosen.

    Args:
        preset: its file.
        base: the base model of the form.
        presets: all presets: a base model named by one of them was not chosen by the user.

    Raises:
        SettingsError: the preset cannot be read.
    """
    named = with_one_optimizer(preset_values(preset))
    chosen = absolute_paths({BASE: base}, PROGRAM_DIR)[BASE]
    if chosen and _is_public(named.get(BASE)) and chosen not in map(_base_of, presets):
        del named[BASE]
    return changed_form(named)


def _is_public(base: object) -> bool:
    return isinstance(base, str) and PUBLIC_NAME.fullmatch(base) is not None


def _base_of(preset: Path) -> object:
    try:
        return preset_values(preset).get(BASE)
    except SettingsError:
        return None
