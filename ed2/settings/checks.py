"""From flat values to `Settings`, with every problem told at once in words for people."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ed2.errors import Problem, SettingsError
from ed2.settings.fields import FieldSpec, fields
from ed2.settings.schema import Settings


def settings_from(values: Mapping[str, object]) -> Settings:
    """Check flat values and group them.

    Args:
        values: settings by their flat names; what is missing takes its default.

    Raises:
        SettingsError: lists every setting that is unknown, has a wrong value or contradicts another.
    """
    problems = [unknown_setting(name) for name in values if name not in fields()]
    grouped: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        if spec := fields().get(name):
            grouped.setdefault(spec.group, {})[name] = tuple(value) if isinstance(value, list) else value
    try:
        settings = Settings.model_validate(grouped)
    except ValidationError as error:
        problems += _reworded(error)
        raise _settings_error(problems) from None
    problems += contradictions(settings)
    if problems:
        raise _settings_error(problems)
    return settings


def unknown_setting(name: str) -> Problem:
    """The problem of a name that no setting has, with the nearest one that exists."""
    near = get_close_matches(name, fields(), n=1)
    return Problem(name, "there is no such setting.", f"Did you mean {near[0]}?" if near else "")


def contradictions(settings: Settings) -> list[Problem]:
    """Settings that are right alone and wrong together."""
    problems = []
    if settings.model.disable_unet_training and settings.model.disable_textenc_training:
        fix = "Train at least one of the two."
        problems.append(Problem("disable_unet_training", "the UNet and the text encoder are both left untrained.", fix))
    if settings.validation.val_split_mode == "manual" and not settings.validation.manual_data_root:
        what = "manual validates with the pictures of a folder, and manual_data_root names none."
        problems.append(Problem("val_split_mode", what, "Give manual_data_root, or choose automatic or none."))
    chosen = settings.optimizer.optimizer
    if settings.optimizer.useadam8bit and chosen not in (None, "adamw8bit"):
        what = f"it asks for adamw8bit, and optimizer asks for {chosen}."
        problems.append(Problem("useadam8bit", what, "Leave one of the two out."))
    if settings.memory.amp_dtype and not settings.memory.amp:
        what = f"it is {settings.memory.amp_dtype}, and mixed precision is off (no amp)."
        problems.append(Problem("amp_dtype", what, "Leave out one of the two."))
    return problems


def without_effect(settings: Settings) -> list[str]:
    """Sentences on settings that change nothing in this combination."""
    notes = []
    if settings.model.disable_textenc_training and settings.optimizer.text_encoder_lr is not None:
        notes.append("text_encoder_lr has no effect: the text encoder is not trained.")
    if settings.data.keep_tags and not settings.data.shuffle_tags:
        notes.append("keep_tags has an effect only on pictures whose tags are shuffled by a file: shuffle_tags is off.")
    if settings.validation.manual_data_root and settings.validation.val_split_mode != "manual":
        notes.append("manual_data_root has no effect: val_split_mode is not manual.")
    if settings.checkpoint.no_save_ckpt and settings.checkpoint.save_ckpt_dir:
        notes.append("save_ckpt_dir has no effect: no_save_ckpt writes no single files.")
    if settings.checkpoint.no_save_ckpt and settings.checkpoint.save_full_precision:
        notes.append("save_full_precision has no effect: no_save_ckpt writes no single files.")
    if settings.checkpoint.save_ckpts_from_n_epochs and not settings.checkpoint.save_every_n_epochs:
        notes.append("save_ckpts_from_n_epochs has no effect: save_every_n_epochs is not set.")
    return notes


def _settings_error(problems: list[Problem]) -> SettingsError:
    count = "1 setting is" if len(problems) == 1 else f"{len(problems)} settings are"
    return SettingsError(f"{count} wrong:", problems)


def _reworded(error: ValidationError) -> list[Problem]:
    """Pydantic's errors, one a setting, in our words."""
    details: dict[str, ErrorDetails] = {}
    for detail in error.errors():
        details.setdefault(str(detail["loc"][1]), detail)
    return [_problem(fields()[name], detail) for name, detail in details.items()]


def _problem(spec: FieldSpec, detail: ErrorDetails) -> Problem:
    own = detail.get("ctx", {}).get("error") if detail["type"] == "value_error" else None
    value = _shown(detail["input"])
    if own is not None:
        return Problem(spec.name, f"{value} is not allowed:", f"{own}.")
    needed = spec.type_name + (", or nothing" if spec.optional else "")
    return Problem(spec.name, f"{value} is not allowed:", f"it takes {needed}.")


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else text[:57] + "..."
