"""Sample prompts in JSON, where each prompt can have its own seed, size and sampler."""

import json
import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from ed2.draws import rng
from ed2.registry import SAMPLERS
from ed2.sampling.prompt import MAX_PROMPTS, FileOptions, Prompt, PromptDefaults, cleaned, rounded_size
from ed2.small_files import parse_json

MAX_SIDE = 2048
MAX_CFGS = 12
MAX_STEPS = 1000
NUM_RANDOM = 4
"""How many captions are used if the file contains no prompts."""
WIDEST = 8
_IGNORED = ("show_progress_bars", "doc", "about")


def prompts_from_json(content: bytes, defaults: PromptDefaults) -> tuple[list[Prompt], FileOptions, list[str]]:
    """The prompts of a JSON file, its options, and what was ignored, in sentences.

    Raises:
        ValueError: it is not an object with samples.
    """
    try:
        values = parse_json(content)
    except ValueError as error:
        raise ValueError(f"it is invalid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError('it must be an object such as {"samples": [{"prompt": "a cat"}]}')
    samples = values.pop("samples", None) or [{"random_caption": True}] * min(NUM_RANDOM, len(defaults.captions))
    if not isinstance(samples, list):
        raise ValueError("samples must be a list")
    common, faults = read_values(values, "")
    options = FileOptions(
        batch_size=common.pop("batch_size", None),
        sample_steps=common.pop("generate_samples_every_n_steps", None),
        before_training=common.pop("generate_pretrain_samples", True),
    )
    prompts = []
    for index, sample in enumerate(samples[: MAX_PROMPTS + 1]):
        own: dict[str, Any] = {}
        if isinstance(sample, dict):
            own, more = read_values(sample, f"sample {index + 1}: ")
            faults += more
        else:
            faults.append(f"sample {index + 1} must be an object.")
        prompts.append(make_prompt(index, {**common, **own}, defaults))
    return prompts, options, faults


def read_values(values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """The values of a prompt that are valid, and sentences on those that are not, which begin with `where`."""
    found: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in values.items():
        if name in _IGNORED or value is None:
            continue
        reader = _READERS.get(name)
        if reader is None:
            near = get_close_matches(name, _READERS, n=1)
            end = f"; did you mean {near[0]}?" if near else "."
            faults.append(f"{where}unknown name {name}{end}")
            continue
        try:
            found[name] = reader(value)
        except ValueError as error:
            faults.append(f"{where}{name} is {json.dumps(value)[:60]}, but must be {error}.")
    return found, faults


def make_prompt(index: int, values: Mapping[str, Any], defaults: PromptDefaults) -> Prompt:
    """A prompt of these values, which `read_values` has read."""
    seed = values.get("seed", defaults.seed)
    if seed < 0:
        seed = int(rng(defaults.seed, "sample seed", index, defaults.step).integers(2**31))
    text = values.get("prompt", "")
    if values.get("random_caption") and defaults.captions:
        place = rng(defaults.seed, "random caption", index, defaults.step).integers(len(defaults.captions))
        text = defaults.captions[int(place)]
    return Prompt(
        index,
        text,
        seed,
        _size(values, defaults),
        values.get("negative_prompt", ""),
        values.get("cfgs", Prompt.cfgs),
        sampler=values.get("scheduler"),
        num_steps=values.get("num_inference_steps"),
    )


def _size(values: Mapping[str, Any], defaults: PromptDefaults) -> tuple[int, int]:
    if "size" in values:
        width, height = values["size"]
        return rounded_size(width, height, defaults.multiple)
    if "width" in values or "height" in values:
        width, height = values.get("width", defaults.size[0]), values.get("height", defaults.size[1])
        return rounded_size(width, height, defaults.multiple)
    if "resolution" not in values and "aspect_ratio" not in values:
        return defaults.size
    side, ratio = values.get("resolution", math.sqrt(math.prod(defaults.size))), values.get("aspect_ratio", 1.0)
    return rounded_size(side * math.sqrt(ratio), side / math.sqrt(ratio), defaults.multiple)


def _whole(low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return read


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    return cleaned(value)


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _cfgs(value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_CFGS or not all(_is_number(v) for v in value):
        raise ValueError(f"a list of 1 to {MAX_CFGS} numbers")
    return tuple(float(cfg) for cfg in value)


def _sides(value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(_is_number(v) and 1 <= v <= MAX_SIDE for v in value):
        raise ValueError(f"[width, height], each at most {MAX_SIDE}")
    return round(value[0]), round(value[1])


def _ratio(value: object) -> float:
    parts = value.split(":") if isinstance(value, str) else [value]
    try:
        numbers = [float(part) for part in parts]  # type: ignore[arg-type]
        ratio = numbers[0] / numbers[1] if len(numbers) == 2 else numbers[0]
    except (ValueError, TypeError, ZeroDivisionError):
        ratio = math.nan
    if not 1 / WIDEST <= ratio <= WIDEST:
        raise ValueError(f'width / height from 1/{WIDEST} to {WIDEST}, such as 1.5 or "3:2"')
    return ratio


def _sampler(value: object) -> str:
    if not isinstance(value, str) or value not in SAMPLERS:
        raise ValueError(f"one of {', '.join(SAMPLERS)}")
    return value


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "prompt": _text,
    "negative_prompt": _text,
    "seed": _whole(-1, 2**63 - 1),
    "size": _sides,
    "width": _whole(16, MAX_SIDE),
    "height": _whole(16, MAX_SIDE),
    "aspect_ratio": _ratio,
    "resolution": _whole(16, MAX_SIDE),
    "random_caption": _switch,
    "cfgs": _cfgs,
    "scheduler": _sampler,
    "num_inference_steps": _whole(1, MAX_STEPS),
    "batch_size": _whole(1, 64),
    "generate_samples_every_n_steps": _whole(1, 2**31),
    "generate_pretrain_samples": _switch,
}
