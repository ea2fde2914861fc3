"""Gathers settings from all sources: the command line, a settings file, and the files that it names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ed2.errors import Problem, SettingsError, printable
from ed2.settings.files import PROGRAM_DIR, absolute_paths, read_preset, read_settings_file, unquoted
from ed2.settings.legacy import (
    LOWVRAM,
    LOWVRAM_RESOLUTION,
    SCALE_EXPONENT,
    Translated,
    from_optimizer_file,
    from_validation_file,
    translated,
)
from ed2.settings.schema import DEFAULT_LR, TEXT_ENCODER_SHARE, Settings
from ed2.small_files import is_file

SETTINGS_IN_FILES: Mapping[str, Callable[[Mapping[str, object]], Translated]] = {
    "optimizer_config": from_optimizer_file,
    "validation_config": from_validation_file,
}
"""Settings that name a file with more settings."""
LR = "lr"
TEXT_ENCODER_LR = "text_encoder_lr"
TEXT_ENCODER_2_LR = "text_encoder_2_lr"


@dataclass(frozen=True)
class Gathered:
    """Settings by their flat names, not yet checked.

    Attributes:
        values: all of them.
        preset: those of the settings file alone.
        notes: what became of names of EveryDream 2.
    """

    values: Mapping[str, object]
    preset: Mapping[str, object]
    notes: tuple[str, ...]


def gather(flags: Mapping[str, object], config: Path | None) -> Gathered:
    """Read the settings file and the files it names; the command line overrides it, and it overrides those files.

    Raises:
        SettingsError: a file is missing or damaged.
    """
    preset: Mapping[str, object] = {}
    notes: list[str] = []
    if config:
        content = read_preset(config)
        preset, notes = content.values, [*content.notes]
    typed = translated(flags)
    notes += typed.notes
    values = {**preset, **typed.values}
    merged: dict[str, object] = {}
    for name, read in SETTINGS_IN_FILES.items():
        file = values.pop(name, None)
        if file:
            place = _place_of(name, file, config if name not in typed.values else None)
            found = read(read_settings_file(place))
            merged |= absolute_paths(found.values, PROGRAM_DIR)
            notes += found.notes_for(place.name)
    values = _common_lr(merged, values) | values
    notes += _lowvram(values) + _scale_lr(values) + _repeats(values)
    own = {name: value for name, value in preset.items() if name not in SETTINGS_IN_FILES}
    return Gathered(values, {**merged, **own}, tuple(notes))


def _place_of(name: str, file: object, config: Path | None) -> Path:
    """The path of a file that the settings name: next to the settings file, else in the program's folder."""
    folders, fix = [Path.cwd()], "Check the spelling."
    if config:
        folders = [config.parent, PROGRAM_DIR]
        fix = f"Put it next to {config.name}, or remove the setting."
    places = [folder / unquoted(str(file)) for folder in folders]
    for place in places:
        if is_file(place):
            return place
    raise SettingsError("1 setting is wrong:", [Problem(name, f"the file {printable(str(file))} does not exist.", fix)])


def _common_lr(merged: dict[str, object], values: Mapping[str, object]) -> dict[str, object]:
    """As in EveryDream 2, lr in the settings overrides both rates of the optimizer file."""
    if values.get(LR) is not None:
        return {name: value for name, value in merged.items() if name not in (LR, TEXT_ENCODER_LR)}
    return merged


def _lowvram(values: dict[str, object]) -> list[str]:
    """Set what a GPU with little memory needs, and report each change."""
    if not values.pop("lowvram", False):
        return []
    forced: dict[str, object] = dict(LOWVRAM)
    now = {**Settings().flat(), **values}
    resolution = now["resolution"]
    if isinstance(resolution, int) and resolution > LOWVRAM_RESOLUTION:
        forced["resolution"] = LOWVRAM_RESOLUTION
    if values.get("optimizer") not in (None, "adamw8bit"):
        forced["optimizer"] = "adamw8bit"
    changes = [f"{name} {now[name]} -> {value}" for name, value in forced.items() if now[name] != value]
    values |= forced
    if not changes:
        return []
    return [f"lowvram: {', '.join(changes)}."]


def _repeats(values: dict[str, object]) -> list[str]:
    """Multiply the epochs by the repeats of another trainer, where both are given."""
    repeats, epochs = values.get("repeats"), values.get("max_epochs")
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        return []  # the checks reject it
    del values["repeats"]
    if not isinstance(epochs, int):
        return [f"repeats: give the epochs too (max_epochs 5), which are multiplied by {repeats}."]
    values["max_epochs"] = repeats * epochs
    return [f"repeats: there are none here; {repeats} repeats x {epochs} epochs are max_epochs {repeats * epochs}."]


def _scale_lr(values: dict[str, object]) -> list[str]:
    """Raise the learning rates with the number of images per step, as EveryDream 2 once did."""
    if not values.pop("scale_lr", False):
        return []
    now = {**Settings().flat(), **values}
    images = 1
    for name in ("batch_size", "grad_accum", "num_processes"):
        number = now[name]
        if not isinstance(number, int):
            return []  # the checks reject it
        images *= number
    factor = images**SCALE_EXPONENT
    rates = {name: now[name] for name in (LR, TEXT_ENCODER_LR, TEXT_ENCODER_2_LR)}
    if rates[LR] is None:
        rates[LR] = DEFAULT_LR["full"]  # EveryDream 2 knows no other method
        rates[TEXT_ENCODER_LR] = rates[TEXT_ENCODER_LR] or DEFAULT_LR["full"] * TEXT_ENCODER_SHARE
    changes = []
    for name, rate in rates.items():
        if isinstance(rate, float) and not isinstance(rate, bool):
            values[name] = float(f"{rate * factor:.6g}")
            changes.append(f"{name} {rate:g} -> {values[name]:g}")
    return [f"scale_lr: {', '.join(changes)}, for {images} images per step."]
