"""The config that a file gives its images, how several configs combine, and the captions they produce."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ed2.data.text_files import remove_unprintable
from ed2.errors import printable, shown
from ed2.text import SWITCH_WORDS

MAX_MULTIPLY = 10_000
"""More visits of one image per epoch than this are considered a typo."""
MAX_TAGS = 1000
MAX_NAME_LENGTH = 80
MAX_PROBLEMS = 5
"""How many problems of one file are listed; the rest are counted."""
TAG_SEPARATOR = ", "

_COMMA = re.compile(r",(?!(?<=\d,)\d)")
"""A comma that separates tags; one between two digits belongs to a number."""
_EMPTY = (None, "", "null", "~")
_T = TypeVar("_T")


class Tag(NamedTuple):
    """A part of a caption; the larger its weight, the sooner it is drawn."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What one file says about images; None and empty tuples mean that it does not say."""

    prompts: tuple[str, ...] = ()
    """Main prompts; the first is used."""
    tags: tuple[Tag, ...] = ()
    multiply: float | None = None
    cond_dropout: float | None = None
    flip_p: float | None = None
    loss_scale: float | None = None
    batch_id: str | None = None
    shuffle_tags: bool | None = None
    max_caption_length: int | None = None
    """In characters."""

    @property
    def tags_by_weight(self) -> tuple[Tag, ...]:
        """The tags with the heaviest first; those of equal weight keep their order."""
        if len({tag.weight for tag in self.tags}) < 2:
            return self.tags
        return tuple(sorted(self.tags, key=lambda tag: -tag.weight))


class ParsedConfig(NamedTuple):
    """A config, and a sentence for each part that is not valid."""

    config: ImageConfig
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TagShuffle:
    """The prompt and tags that captions of an image are drawn from."""

    prompt: str
    tags: tuple[Tag, ...]
    max_length: int | None = None
    """Most characters in a caption; tags that no longer fit are left out."""

    def draw(self, generator: np.random.Generator, keep_tags: int = 0) -> str:
        """Return a caption: the main prompt, the first `keep_tags` tags in their order, the others shuffled.

        Where weights differ, tags are drawn one after the other from those left, with probability in proportion to
        their weight; a tag of weight 0 is never drawn.
        Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir": the order of log(u) / w.
        """
        kept, rest = self.tags[:keep_tags], self.tags[keep_tags:]
        rest = tuple(tag for tag in rest if tag.weight > 0)
        draws = np.log1p(-generator.random(len(rest))) / np.array([tag.weight for tag in rest])
        order = np.argsort(-draws, kind="stable").tolist()
        return join_tags(self.prompt, [*kept, *(rest[index] for index in order)], self.max_length)


def join_tags(prompt: str, tags: Sequence[Tag], max_length: int | None) -> str:
    """Return the main prompt followed by the tags that fit; the main prompt is never cut."""
    parts = list(filter(None, [prompt]))
    if max_length is None:
        return TAG_SEPARATOR.join([*parts, *(tag.text for tag in tags)])
    length = len(prompt)
    for tag in tags:
        added = len(tag.text)
        if parts:
            added += len(TAG_SEPARATOR)
        if length + added <= max_length:
            parts.append(tag.text)
            length += added
    return TAG_SEPARATOR.join(parts)


def caption_in_order(config: ImageConfig, prompt: str) -> str:
    """Return the caption with its tags in their order, the heaviest first."""
    return join_tags(prompt, config.tags_by_weight, config.max_caption_length)


def tag_shuffle(config: ImageConfig, prompt: str, *, default: bool) -> TagShuffle | None:
    """Return the source of random captions; None if every visit has the same caption."""
    if not config.tags or not _either(config.shuffle_tags, default):
        return None
    return TagShuffle(prompt, config.tags_by_weight, config.max_caption_length)


def merge_configs(configs: Sequence[ImageConfig]) -> ImageConfig:
    """Combine configs, the most specific last.

    For each value the last config that gives one wins. Main prompts and tags are collected, those of the last config
    first, each text once.
    """
    if not configs:
        return ImageConfig()
    merged = configs[-1]
    for config in configs[-2::-1]:
        merged = _merge(merged, config)
    return merged


def _merge(strong: ImageConfig, weak: ImageConfig) -> ImageConfig:
    """Fill in what the first does not say."""
    prompts, tags = strong.prompts, strong.tags
    if weak.prompts:
        prompts = tuple(dict.fromkeys(prompts + weak.prompts))
    if weak.tags:
        tags = _unique(tags + weak.tags)
    return ImageConfig(
        prompts,
        tags,
        _either(strong.multiply, weak.multiply),
        _either(strong.cond_dropout, weak.cond_dropout),
        _either(strong.flip_p, weak.flip_p),
        _either(strong.loss_scale, weak.loss_scale),
        _either(strong.batch_id, weak.batch_id),
        _either(strong.shuffle_tags, weak.shuffle_tags),
        _either(strong.max_caption_length, weak.max_caption_length),
    )


def _either(value: _T | None, other: _T | None) -> _T | None:
    if value is None:
        return other
    return value


def config_from_text(text: str) -> ImageConfig:
    """Return a caption as a config: the main prompt up to the first comma, then the tags."""
    first, *rest = split_tags(remove_unprintable(text))
    return ImageConfig((first,) if first else (), tuple(map(_plain_tag, dict.fromkeys(filter(None, rest)))))


def split_tags(text: str) -> list[str]:
    """Return the parts of a caption between its commas; a comma in a number separates nothing."""
    return list(map(str.strip, _COMMA.split(text)))


def config_from_mapping(values: Mapping[Any, object]) -> ParsedConfig:
    """Return what a YAML file or a manifest entry says; its keys may also be nested under `caption`.

    A `caption` that is text is the main prompt.
    """
    found: dict[str, Any] = {}
    problems: list[str] = []
    unknown: list[str] = []
    for name, value in _flatten(values):
        reader = _READERS.get(name)
        if reader is None:
            unknown.append(name)
        elif value not in _EMPTY:
            try:
                found["prompts" if name == "main_prompt" else name] = reader(value)
            except ValueError as error:
                problems.append(f"{name} is {shown(value)}; it must be {error}.")
    num_problems = len(problems) + len(unknown)
    problems += map(_unknown, unknown[:MAX_PROBLEMS])
    if num_problems > MAX_PROBLEMS:
        problems[MAX_PROBLEMS:] = [f"and {num_problems - MAX_PROBLEMS:,} more."]
    return ParsedConfig(ImageConfig(**found), tuple(problems))


def _flatten(values: Mapping[Any, object]) -> Iterable[tuple[str, object]]:
    for name, value in values.items():
        if name == "caption" and isinstance(value, Mapping):
            yield from ((str(inner), content) for inner, content in value.items())
        elif name == "caption" and isinstance(value, str):
            yield "main_prompt", value
        else:
            yield str(name), value


def _number(low: float, high: float, value: object) -> float:
    error = ValueError(f"a number from {low:,g} to {high:,g}")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise error
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise error from None
    if not math.isfinite(number) or not low <= number <= high:
        raise error
    return number


def _whole_number(value: object) -> int:
    number = _number(1, 1_000_000, value)
    if number != int(number):
        raise ValueError("a whole number")
    return int(number)


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in SWITCH_WORDS:
        return SWITCH_WORDS[value.lower()]
    raise ValueError("true or false")


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("text")
    return " ".join(remove_unprintable(str(value)).split())


def _texts(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(filter(None, map(_text, items))))


def _tags(value: object) -> tuple[Tag, ...]:
    if isinstance(value, str):
        return _unique(map(_plain_tag, filter(None, map(_text, _COMMA.split(value)))))
    if not isinstance(value, list) or len(value) > MAX_TAGS:
        raise ValueError(f"a list of at most {MAX_TAGS:,} tags")
    return _unique(tag for tag in map(_tag, value) if tag.text)


@lru_cache(maxsize=1 << 16)  # most datasets have few different tags, which their images then share
def _plain_tag(text: str) -> Tag:
    return Tag(text)


def _tag(item: object) -> Tag:
    if not isinstance(item, Mapping):
        return _plain_tag(_text(item))
    if "tag" not in item or not set(item) <= {"tag", "weight"}:
        raise ValueError("a list of tags, each as text or as {tag: text, weight: number}")
    weight = item.get("weight")
    return Tag(_text(item["tag"]), 1.0 if weight in _EMPTY else _number(0, 1e6, weight))


def _unique(tags: Iterable[Tag]) -> tuple[Tag, ...]:
    found: dict[str, Tag] = {}
    for tag in tags:
        found.setdefault(tag.text, tag)
    return tuple(found.values())


def _unknown(name: str) -> str:
    if name == "rating":  # the original's rated datasets
        return "rating is ignored; ratings are not supported."
    near = get_close_matches(name[:MAX_NAME_LENGTH], _READERS, n=1)
    return f"{printable(name)} is not a known name" + (f"; did you mean {near[0]}?" if near else ".")


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "main_prompt": _texts,
    "tags": _tags,
    "multiply": partial(_number, 0, MAX_MULTIPLY),
    "cond_dropout": partial(_number, 0, 1),
    "flip_p": partial(_number, 0, 1),
    "loss_scale": partial(_number, -1000, 1000),
    "batch_id": _text,
    "shuffle_tags": _switch,
    "max_caption_length": _whole_number,
}
