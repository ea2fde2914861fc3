"""From flat values to `Settings`, with every problem told at once in words for people."""

from collections.abc import Iterator, Mapping
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
    if settings.loss.timestep_start >= settings.loss.timestep_end:
        what = f"it is {settings.loss.timestep_start}, and timestep_end is {settings.loss.timestep_end}."
        problems.append(Problem("timestep_start", what, "It has to be below timestep_end."))
    return problems


def without_effect(settings: Settings) -> list[str]:
    """Sentences on settings that change nothing in this combination."""
    return [f"{name} has no effect: {why}." for name, why in _idle(settings)]


def _idle(settings: Settings) -> Iterator[tuple[str, str]]:
    yield from _idle_data(settings)
    yield from _idle_saving(settings)
    yield from _idle_text_encoder(settings)
    yield from _idle_optimizer(settings)
    yield from _idle_average(settings)


def _idle_data(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.data.keep_tags and not settings.data.shuffle_tags:
        yield "keep_tags", "shuffle_tags is off; it counts only where a file shuffles a picture's tags"
    if settings.validation.manual_data_root and settings.validation.val_split_mode != "manual":
        yield "manual_data_root", "val_split_mode is not manual"


def _idle_saving(settings: Settings) -> Iterator[tuple[str, str]]:
    checkpoint = settings.checkpoint
    no_files = "no_save_ckpt writes no single files"
    if checkpoint.no_save_ckpt and checkpoint.save_ckpt_dir:
        yield "save_ckpt_dir", no_files
    if checkpoint.no_save_ckpt and checkpoint.save_full_precision:
        yield "save_full_precision", no_files
    if checkpoint.save_ckpts_from_n_epochs and not checkpoint.save_every_n_epochs:
        yield "save_ckpts_from_n_epochs", "save_every_n_epochs is not set"


def _idle_text_encoder(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is said on a text encoder that is not trained, or on layers of it that the UNet never sees."""
    own = {**settings.text_encoder.model_dump(), "text_encoder_lr": settings.optimizer.text_encoder_lr}
    if settings.model.disable_textenc_training:
        yield from (
            (name, "the text encoder is not trained") for name, value in own.items() if value not in (None, False)
        )
    elif own["unfreeze_last_n_layers"] and own["freeze_embeddings"]:
        yield "freeze_embeddings", "unfreeze_last_n_layers freezes them anyway"
    unused, trained = settings.noise.clip_skip - 1, own["unfreeze_last_n_layers"]
    if trained and unused >= trained and not settings.model.disable_textenc_training:
        yield "unfreeze_last_n_layers", f"clip_skip {settings.noise.clip_skip} leaves these layers unused"


def _idle_optimizer(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is said on the curve of a learning rate that stays, and options that an optimizer does not have."""
    own, text = settings.optimizer, settings.text_encoder
    curves = {own.lr_scheduler, text.text_encoder_lr_scheduler or own.lr_scheduler}
    if curves == {"constant"}:
        if own.lr_decay_steps:
            yield "lr_decay_steps", "the learning rate is constant"
        if text.text_encoder_lr_decay_steps:
            yield "text_encoder_lr_decay_steps", "the learning rate is constant"
    if own.optimizer in ("lion", "lion8bit", "adafactor") and own.epsilon != type(own)().epsilon:
        yield "epsilon", f"{own.optimizer} has none"
    if own.optimizer == "adafactor" and own.betas:
        yield "betas", "adafactor has none"


def _idle_average(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is said on a moving average that is off, or said twice."""
    own, default = settings.ema, type(settings.ema)()
    if not own.is_on:
        for name, value in own.model_dump().items():
            if value != getattr(default, name):
                yield name, "no average is kept without ema_decay_rate or ema_strength_target"
    elif own.ema_decay_rate is not None and own.ema_strength_target is not None:
        yield "ema_decay_rate", "ema_strength_target chooses the decay"


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
