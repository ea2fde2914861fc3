"""From flat values to `Settings`, with every problem listed at once in plain English."""

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ed2.errors import Problem, SettingsError, printable, shown
from ed2.models.families.facts import FACTS, FamilyFacts
from ed2.settings.fields import FieldSpec, fields
from ed2.settings.schema import Settings
from ed2.text import counted, plural

MAX_LISTED = 20
"""Unknown names listed one by one; the rest are counted, since the file is then probably not a settings file."""
MAX_NUMBER = 2**53
MAX_PATH_BYTES, MAX_PART_BYTES = 4000, 255
"""The limits on Linux; Windows has lower ones and reports them with its own errors."""
MAX_NAME_LENGTH = 80
"""A longer name cannot resemble a setting, and comparing it takes long."""
LOW_MEMORY_OPTIMIZERS = ("adamw", "adamw8bit", "adafactor", "lion8bit")
"""Those that update each parameter by itself, which weights in bf16 and fused_backward need."""
SHARDED_OPTIMIZERS = (*LOW_MEMORY_OPTIMIZERS, "lion")
"""Those whose state several processes share out, since each parameter has its own."""

ON_END = "on_end"
"""A flag that may start any program, so it is no setting: a preset or a run of somebody else's could name it."""


def settings_from(values: Mapping[str, object]) -> Settings:
    """Check flat values and group them.

    Args:
        values: settings by their flat names; missing ones get their defaults.

    Raises:
        SettingsError: lists every setting that is unknown, invalid or contradicts another.
    """
    unknown = [name for name in values if name not in fields()]
    problems = [unknown_setting(name) for name in unknown[:MAX_LISTED]]
    num_unlisted = len(unknown[MAX_LISTED:])
    known = {name: value for name, value in values.items() if name in fields()}
    problems += filter(None, map(_problem_of_value, known, known.values()))
    try:
        settings = Settings.model_validate(_grouped(known))
    except ValidationError as error:
        named = {problem.path for problem in problems}
        problems += [problem for problem in _reworded(error) if problem.path not in named]
        raise wrong_settings(problems, num_unlisted) from None
    problems += contradictions(settings)
    if problems:
        raise wrong_settings(problems, num_unlisted)
    return settings


def as_far_as_valid(values: Mapping[str, object]) -> Settings:
    """The same settings with a default in place of each value that is not allowed; they may contradict each other."""
    known = {name: value for name, value in values.items() if name in fields()}
    try:
        return Settings.model_validate(_grouped(known))
    except ValidationError as error:
        wrong = {problem.path for problem in _reworded(error)}
    return Settings.model_validate(_grouped({name: value for name, value in known.items() if name not in wrong}))


def _grouped(values: Mapping[str, object]) -> dict[str, dict[str, object]]:
    groups: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        group = groups.setdefault(fields()[name].group, {})
        group[name] = tuple(value) if isinstance(value, list) else value
    return groups


def is_plain(text: str) -> bool:
    """Whether a text can be part of a path and written to a file: no control characters, no lone surrogates."""
    return not any(ord(letter) < 32 or 0xD800 <= ord(letter) <= 0xDFFF for letter in text)


def _problem_of_value(name: str, value: object) -> Problem | None:
    """The problem of a value that its type allows, but no file system or loop can handle."""
    items = value if isinstance(value, list | tuple) else [value]
    for item in items:
        if isinstance(item, str) and not is_plain(item):
            return Problem(name, "it contains a character that paths and names cannot have.", "Type it again.")
        if isinstance(item, str) and fields()[name].is_path and _is_too_long(item):
            return Problem(name, f"{printable(item)} is too long for a path.", "Check the spelling.")
        if isinstance(item, int) and abs(item) > MAX_NUMBER:
            return Problem(name, f"{_value_text(item)} is too large.", "Check the spelling.")
    return None


def _is_too_long(path: str) -> bool:
    return len(path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_PART_BYTES for part in Path(path).parts)


def unknown_setting(name: str) -> Problem:
    """The problem of a name that is not a setting, with the nearest setting."""
    if name == ON_END:
        fix = "Remove it there. Give it on the command line, or put it into user/on_end.conf."
        return Problem(name, "it cannot come from a file or a form, since it may start any program.", fix)
    near = get_close_matches(name[:MAX_NAME_LENGTH], fields(), n=1)
    fix = ""
    if near:
        fix = f"Did you mean {near[0]}?"
    return Problem(printable(name) or "(no name)", "there is no such setting.", fix)


def contradictions(settings: Settings) -> list[Problem]:
    """Problems of settings that are valid alone but not together."""
    problems = []
    if all(nothing_trained(settings, family) for family in FACTS.values()):
        problems += nothing_trained(settings, next(iter(FACTS.values())))
    if settings.validation.val_split_mode == "manual" and not settings.validation.manual_data_root:
        what = "manual needs a folder of validation images, and manual_data_root is empty."
        problems.append(Problem("val_split_mode", what, "Set manual_data_root, or choose automatic or none."))
    chosen = settings.optimizer.optimizer
    if settings.optimizer.useadam8bit and chosen not in (None, "adamw8bit"):
        what = f"it selects adamw8bit, but optimizer is {chosen}."
        problems.append(Problem("useadam8bit", what, "Remove one of the two."))
    if settings.memory.amp_dtype and not settings.memory.amp:
        what = f"it is {settings.memory.amp_dtype}, but mixed precision (amp) is off."
        problems.append(Problem("amp_dtype", what, "Remove it, or turn amp on."))
    if settings.loss.timestep_start >= settings.loss.timestep_end:
        what = f"it is {settings.loss.timestep_start}, but timestep_end is {settings.loss.timestep_end}."
        problems.append(Problem("timestep_start", what, "Choose a value below timestep_end."))
    problems += _precision_contradictions(settings)
    return [*problems, *_bf16_contradictions(settings), *_fused_contradictions(settings)]


def _precision_contradictions(settings: Settings) -> Iterator[Problem]:
    """Two number formats for the single file."""
    chosen = settings.checkpoint.export_dtype
    if settings.checkpoint.save_full_precision and chosen not in (None, "fp32"):
        what = f"it means export_dtype fp32, but export_dtype is {chosen}."
        yield Problem("save_full_precision", what, "Set only one of the two; --save_full_precision=false turns it off.")


def nothing_trained(settings: Settings, family: FamilyFacts) -> list[Problem]:
    """The problem of settings that freeze every part of a model of `family`; empty if something is trained."""
    if settings.model.trained_parts(family):
        return []
    frozen = ", ".join(part.title for part in family.parts if part.is_trainable)
    what = f"everything is frozen ({frozen}), so nothing would be trained."
    return [Problem("disable_unet_training", what, "Unfreeze at least one of them.")]


def _bf16_contradictions(settings: Settings) -> Iterator[Problem]:
    """What weights in bf16 exclude."""
    memory = settings.memory
    if memory.weights_dtype != "bf16":
        return
    yield from _unsupported_optimizers(settings, "weights_dtype")
    if not memory.amp:
        yield Problem("weights_dtype", "bf16 needs mixed precision (amp), which is off.", "Turn amp on, or use fp32.")
    if memory.amp and memory.amp_dtype == "fp16":
        yield Problem("weights_dtype", "bf16 does not work with amp_dtype fp16.", "Set amp_dtype to bf16.")


def _fused_contradictions(settings: Settings) -> Iterator[Problem]:
    """What fused_backward excludes, since it has one gradient at a time."""
    memory, norm = settings.memory, settings.optimizer.clip_grad_norm
    if not memory.fused_backward:
        return
    yield from _unsupported_optimizers(settings, "fused_backward")
    if settings.data.grad_accum > 1:
        what = f"it is {settings.data.grad_accum}, but fused_backward cannot accumulate gradients."
        yield Problem("grad_accum", what, "Set grad_accum to 1 and raise batch_size, or turn fused_backward off.")
    if memory.amp and memory.amp_dtype == "fp16":
        what = "it is fp16, whose scaling needs all gradients at once; fused_backward has one at a time."
        yield Problem("amp_dtype", what, "Set amp_dtype to bf16, or turn fused_backward off.")
    if norm not in (None, type(settings.optimizer)().clip_grad_norm):
        yield fused_clipping(norm)


def fused_clipping(norm: object) -> Problem:
    """The problem of a `clip_grad_norm` that was given for a run with fused_backward."""
    what = f"it is {norm:g}, a norm of all gradients together, but fused_backward has one at a time."
    return Problem("clip_grad_norm", what, "Leave it out to clip each tensor at 1, or turn fused_backward off.")


def _unsupported_optimizers(settings: Settings, feature: str) -> Iterator[Problem]:
    chosen = {"optimizer": settings.optimizer.optimizer}
    if not settings.model.disable_textenc_training or settings.model.disable_textenc_2_training is False:
        chosen["text_encoder_optimizer"] = settings.text_encoder.text_encoder_optimizer
    for setting, name in chosen.items():
        if name is not None and name not in LOW_MEMORY_OPTIMIZERS:
            what = f"{name} does not work with {feature}."
            yield Problem(setting, what, f"Use {', '.join(LOW_MEMORY_OPTIMIZERS)}, or turn {feature} off.")


def wrong_settings(problems: list[Problem], num_unlisted: int = 0) -> SettingsError:
    """The error that lists problems; `num_unlisted` counts further unknown names."""
    number = len(problems) + num_unlisted
    if num_unlisted:
        problems = [*problems, Problem(None, f"and {num_unlisted:,} more unknown names.")]
    return SettingsError(f"{counted(number, 'setting')} {plural(number, 'is', 'are')} wrong:", problems)


def _reworded(error: ValidationError) -> list[Problem]:
    """Pydantic's errors in our wording, one per setting."""
    details: dict[str, ErrorDetails] = {}
    for detail in error.errors():
        details.setdefault(str(detail["loc"][1]), detail)
    return [_problem(fields()[name], detail) for name, detail in details.items()]


def _problem(spec: FieldSpec, detail: ErrorDetails) -> Problem:
    value, context = _value_text(detail["input"]), detail.get("ctx", {})
    if detail["type"] == "value_error":
        return Problem(spec.name, f"{value} is not allowed:", f"{context['error']}.")
    if detail["type"] == "string_too_long":
        return Problem(spec.name, f"{value} is too long.", f"Use at most {context['max_length']} characters.")
    empty = ", or leave it empty" if spec.optional else ""
    return Problem(spec.name, f"{value} is not allowed.", f"Use {spec.type_name}{empty}.")


def _value_text(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return json.dumps(value)  # as in the file
    if isinstance(value, tuple):
        value = list(value)
    return shown(value)
