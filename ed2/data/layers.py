"""What one file says of the images that it stands for, and how several such files lie over each other."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache, partial
from typing import Any, NamedTuple

from ed2.data.captions import readable
from ed2.errors import printable, shown

MAX_MULTIPLY = 10_000
"""More showings of one image in an epoch than this are taken for a slip."""
MAX_TAGS = 1000
MAX_NAME_LENGTH = 80
MAX_FAULTS = 5
"""How many faults of a file are told one by one."""

_SEPARATOR = re.compile(r",(?!(?<=\d,)\d)")
"""A comma; between two digits it belongs to a number."""
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_NOTHING = (None, "", "null", "~")


class Tag(NamedTuple):
    """A part of a caption; the larger its weight, the sooner it is drawn."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Layer:
    """What one file says; None and nothing are unsaid."""

    prompts: tuple[str, ...] = ()
    """Main prompts, of which the first is used."""
    tags: tuple[Tag, ...] = ()
    multiply: float | None = None
    cond_dropout: float | None = None
    flip_p: float | None = None
    loss_scale: float | None = None
    batch_id: str | None = None
    shuffle_tags: bool | None = None
    max_caption_length: int | None = None
    """In characters."""


class Told(NamedTuple):
    """A layer, and in sentences what could not be understood of it."""

    layer: Layer
    faults: tuple[str, ...] = ()


def merged(layers: Sequence[Layer]) -> Layer:
    """Lay each layer over those before it.

    The last one that says a value wins. Main prompts and tags are put together, those of the last layer first, each
    text once.
    """
    strongest_first = layers[::-1]
    values: dict[str, Any] = {}
    for layer in strongest_first:
        for name in _VALUES:
            if values.get(name) is None:
                values[name] = getattr(layer, name)
    tags: dict[str, Tag] = {}
    for tag in (tag for layer in strongest_first for tag in layer.tags):
        tags.setdefault(tag.text, tag)
    prompts = dict.fromkeys(prompt for layer in strongest_first for prompt in layer.prompts)
    return Layer(prompts=tuple(prompts), tags=tuple(tags.values()), **values)


def layer_of_text(text: str) -> Layer:
    """Return a caption as a layer: up to the first comma the main prompt, then the tags."""
    first, *rest = (piece.strip() for piece in _SEPARATOR.split(readable(text)))
    return Layer(prompts=(first,) if first else (), tags=_unique(_plain(piece) for piece in rest if piece))


def layer_of_value(name: str, value: object) -> Told:
    """Return a layer that says one value."""
    return layer_of_mapping({name: value})


def layer_of_mapping(values: Mapping[Any, object]) -> Told:
    """Return what a YAML file or an entry of a manifest says; keys may stand under `caption`."""
    found: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in _flat(values):
        reader = _READERS.get(name)
        if reader is None:
            faults.append(_unknown(name) if len(faults) < MAX_FAULTS else "")
        elif value not in _NOTHING:
            try:
                found["prompts" if name == "main_prompt" else name] = reader(value)
            except ValueError as error:
                faults.append(f"{name} is {shown(value)}: it takes {error}.")
    if len(faults) > MAX_FAULTS:
        faults[MAX_FAULTS:] = [f"and {len(faults) - MAX_FAULTS:,} more."]
    return Told(Layer(**found), tuple(faults))


def _flat(values: Mapping[Any, object]) -> Iterable[tuple[str, object]]:
    for name, value in values.items():
        if name == "caption" and isinstance(value, Mapping):
            yield from ((str(inner), content) for inner, content in value.items())
        else:
            yield str(name), value


def _number(low: float, high: float, value: object) -> float:
    wanted = ValueError(f"a number from {low:,g} to {high:,g}")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wanted
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise wanted from None
    if not math.isfinite(number) or not low <= number <= high:
        raise wanted
    return number


def _whole(value: object) -> int:
    number = _number(1, 1_000_000, value)
    if number != int(number):
        raise ValueError("a whole number")
    return int(number)


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    raise ValueError("true or false")


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("text")
    return " ".join(readable(str(value)).split())


def _texts(value: object) -> tuple[str, ...]:
    texts = [_text(item) for item in value] if isinstance(value, list) else [_text(value)]
    return tuple(text for text in texts if text)


def _tags(value: object) -> tuple[Tag, ...]:
    if isinstance(value, str):
        return _unique(_plain(piece) for part in _SEPARATOR.split(value) if (piece := _text(part)))
    if not isinstance(value, list) or len(value) > MAX_TAGS:
        raise ValueError(f"a list of at most {MAX_TAGS:,} tags")
    return _unique(tag for item in value if (tag := _tag(item)).text)


@lru_cache(maxsize=1 << 16)  # most sets have few different tags, which their images then share
def _plain(text: str) -> Tag:
    return Tag(text)


def _tag(item: object) -> Tag:
    if not isinstance(item, Mapping):
        return _plain(_text(item))
    unknown = set(item) - {"tag", "weight"}
    if "tag" not in item or unknown:
        raise ValueError("tags as text, or as {tag: text, weight: number}")
    weight = item.get("weight")
    return Tag(_text(item["tag"]), 1.0 if weight in _NOTHING else _number(0, 1e6, weight))


def _unique(tags: Iterable[Tag]) -> tuple[Tag, ...]:
    found: dict[str, Tag] = {}
    for tag in tags:
        found.setdefault(tag.text, tag)
    return tuple(found.values())


def _rating(value: object) -> object:
    raise ValueError("nothing here yet: ratings are not used")


def _unknown(name: str) -> str:
    near = get_close_matches(name[:MAX_NAME_LENGTH], _READERS, n=1)
    return f"{printable(name)} is not known" + (f"; did you mean {near[0]}?" if near else ".")


_VALUES: Mapping[str, Callable[[Any], Any]] = {
    "multiply": partial(_number, 0, MAX_MULTIPLY),
    "cond_dropout": partial(_number, 0, 1),
    "flip_p": partial(_number, 0, 1),
    "loss_scale": partial(_number, -1000, 1000),
    "batch_id": _text,
    "shuffle_tags": _switch,
    "max_caption_length": _whole,
}
_READERS: Mapping[str, Callable[[Any], Any]] = {"main_prompt": _texts, "tags": _tags, **_VALUES, "rating": _rating}
