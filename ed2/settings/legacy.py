"""Translates flags and files of EveryDream 2 into our settings, with notes on what became of each name.

A name in `original` that is also a setting is read as the setting.
"""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ed2.settings.fields import fields
from ed2.settings.original import (
    ALIASES,
    ALWAYS,
    DEAD,
    FREEZING_KEYS,
    LATER,
    OPTIMIZER_KEYS,
    ORIGINAL,
    SECTIONS,
    TEXTS,
    VALIDATION_KEYS,
)

Values = dict[str, object]
COLUMNS = 100
"""Width of the notes on a file."""


@dataclass
class Translated:
    """Settings by our names, and what to report.

    Attributes:
        values: the settings.
        notes: sentences on names that are not simply kept.
        kept: names that are kept.
        unset: names that are null.
        off: names without effect here that were turned off there.
    """

    values: Values = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)
    off: list[str] = field(default_factory=list)

    def notes_for(self, file: str) -> list[str]:
        """What became of every name of a file, as one note of several lines."""
        groups = {"used": self.kept, "not set": self.unset, "turned off, and without effect here": self.off}
        lists = [f"{title}: {', '.join(names)}." for title, names in groups.items() if names]
        if not lists:
            return self.notes
        lines = [f"Read {file} of EveryDream 2:"]
        for text in (*lists, *self.notes):
            lines.append(
                textwrap.fill(text, COLUMNS, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
            )
        return ["\n".join(lines)]

    @property
    def is_from_original(self) -> bool:
        """Whether a name shows that the file was written for EveryDream 2."""
        return bool(self.notes or self.off)


LOWVRAM = {"gradient_checkpointing": True, "batch_size": 1, "grad_accum": 1, "useadam8bit": True}
LOWVRAM_RESOLUTION = 512
SCALE_EXPONENT = 0.55


def translated(given: Mapping[str, object]) -> Translated:
    """The settings that names of EveryDream 2 stand for; unknown names are passed on unchanged."""
    result = Translated()
    for name, value in given.items():
        if value is None and not (name in fields() and fields()[name].optional):
            result.unset.append(name)  # its files use null for "not set"
        elif name in fields():
            result.values[name] = _as_ours(name, value)
            (result.unset if value is None else result.kept).append(name)
        elif name in _ALIASES:
            _ALIASES[name](result, value)
        elif name == "config":  # in files that EveryDream 2 wrote itself
            result.off.append(name)
        elif not _has_no_effect(result, name, value) and name not in TEXTS:
            result.values[name] = value
    return result


def _has_no_effect(result: Translated, name: str, value: object) -> bool:
    """Whether a name has no effect here; adds a note on it, unless it is a switch that is off."""
    reason = ""
    if name in DEAD:
        reason = f"{name} has no effect: {DEAD[name]}."
    elif name in ALWAYS:
        reason = f"{name} is not needed: {ALWAYS[name]}."
    elif name in LATER or name in ORIGINAL:
        reason = f"{name} has no effect: {LATER.get(name, 'this')} is not supported yet."
    if reason and value not in (None, False):
        result.notes.append(reason)
    elif reason:
        result.off.append(name)
    return bool(reason)


def from_optimizer_file(content: Mapping[str, object]) -> Translated:
    """The settings of an `optimizer.json`: base, text_encoder_overrides and text_encoder_freezing."""
    result = Translated()
    for section, values in content.items():
        if section in SECTIONS and isinstance(values, Mapping):
            prefix = SECTIONS[section]
            for name, value in values.items():
                _take(result, f"{section}.{name}", f"{prefix}{name}", name, value)
        elif not _has_no_effect(result, section, values) and section not in TEXTS:
            result.notes.append(f"{section} in the optimizer file is unknown and ignored.")
    return result


def from_validation_file(content: Mapping[str, object]) -> Translated:
    """The settings of a `validation_default.json`; missing values are those of EveryDream 2."""
    result = Translated(values={"val_split_mode": "automatic"})
    for name, value in content.items():
        if value is None:
            result.unset.append(name)
        elif name in VALIDATION_KEYS:
            ours = VALIDATION_KEYS[name]
            result.values[ours] = _as_ours(ours, value)
            result.kept.append(name)
        elif name == "validate_training":
            result.kept.append(name)
        elif not _has_no_effect(result, name, value) and name not in TEXTS:
            result.notes.append(f"{name} in the validation file is unknown and ignored.")
    if content.get("validate_training", True) in (False, "false"):
        result.values["val_split_mode"] = "none"
    return result


def _take(result: Translated, where: str, ours: str, name: str, value: object) -> None:
    """Read one key of an optimizer file, if it is set and we have such a setting."""
    if name in TEXTS:
        return
    if value is None:
        result.unset.append(where)
        return
    if name == "freeze_front_n_layers" and isinstance(value, int) and value < 0:  # freezes all but the last -value
        ours, value = "unfreeze_last_n_layers", -value
    if ours in fields():
        result.values[ours] = _as_ours(ours, value)
        result.kept.append(where)
    elif name in DEAD:
        result.notes.append(f"{where} has no effect: {DEAD[name]}.")
    elif name in OPTIMIZER_KEYS or name in FREEZING_KEYS:
        result.notes.append(f"{where} has no effect: it is not supported yet.")
    else:
        result.notes.append(f"{where} is unknown and ignored.")


def _as_ours(name: str, value: object) -> object:
    """A value of EveryDream 2 in the form of our setting."""
    if name == "data_root":
        return _roots(value)
    if name == "extra_manual_datasets" and isinstance(value, Mapping):
        return [f"{key}={folder}" for key, folder in value.items()]
    # Its files often hold whole numbers where our setting is a float.
    spec = fields()[name]
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if spec.kind is float and is_whole and not spec.many:
        return float(value)  # type: ignore[arg-type]
    return value


def _roots(value: object) -> object:
    """The folders and manifests of a data_root in any form that EveryDream 2 accepts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        inner = value.get("resolvers", value.get("path"))
        return value if inner is None or isinstance(inner, Mapping) else _roots(inner)
    if isinstance(value, list | tuple) and not all(isinstance(item, str) for item in value):
        found: list[object] = []
        for item in value:
            roots = item
            if isinstance(item, str | Mapping):
                roots = _roots(item)
            found += roots if isinstance(roots, list) else [roots]
        return found
    return value


def _disable_amp(result: Translated, value: object) -> None:
    result.values["amp"] = not value if isinstance(value, bool) else value
    _note_alias(result, "disable_amp", value)


def _gpuid(result: Translated, value: object) -> None:
    result.values["device"] = f"cuda:{value}" if value != 0 else "auto"
    _note_alias(result, "gpuid", value)


def _disable_xformers(result: Translated, value: object) -> None:
    if value:
        result.values["attn_type"] = "sdp"
    _note_alias(result, "disable_xformers", value)


def _note_alias(result: Translated, name: str, value: object) -> None:
    if value:
        result.notes.append(f"{name} is read as {ALIASES[name].replace('cuda:N', f'cuda:{value}')}.")
    else:
        result.off.append(name)


def _pass(name: str) -> Callable[[Translated, object], None]:
    def keep(result: Translated, value: object) -> None:
        result.values[name] = value
        result.kept.append(name)

    return keep


def _train_sampler(result: Translated, value: object) -> None:
    if value not in (None, "ddpm"):
        result.notes.append("train_sampler has no effect: ddpm, pndm and ddim all add noise in the same way.")
    else:
        result.off.append("train_sampler")


_ALIASES: Mapping[str, Callable[[Translated, Any], None]] = {
    "disable_amp": _disable_amp,
    "gpuid": _gpuid,
    "disable_xformers": _disable_xformers,
    "train_sampler": _train_sampler,
    **{name: _pass(name) for name in ("lowvram", "scale_lr", "repeats", "optimizer_config", "validation_config")},
}
LEGACY_FLAGS = (*_ALIASES, *DEAD, *LATER, "save_optimizer")
"""Flags of EveryDream 2 that are not settings here."""
