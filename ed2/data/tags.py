"""Captions made of a main prompt and tags: in their order, or drawn anew at each visit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ed2.data.layers import Layer, Tag

SEPARATOR = ", "


@dataclass(frozen=True, slots=True)
class Shuffle:
    """What the captions of an image are drawn from."""

    prompt: str
    tags: tuple[Tag, ...]
    max_length: int | None = None
    """Characters that a caption may have; a tag that does not fit any more is left out."""

    def drawn(self, generator: np.random.Generator, keep_tags: int = 0) -> str:
        """Return a caption: the main prompt, the first `keep_tags` tags in their order, the others shuffled.

        Where weights differ, a tag comes the sooner the larger its weight is: one after the other is drawn from those
        left, with chances in proportion to their weights, and one of weight 0 never.
        Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir": the order of log(u) / w.
        """
        kept, rest = self.tags[:keep_tags], self.tags[keep_tags:]
        rest = tuple(tag for tag in rest if tag.weight > 0)
        draws = np.log1p(-generator.random(len(rest))) / np.array([tag.weight for tag in rest])
        order = np.argsort(-draws, kind="stable").tolist()
        return joined(self.prompt, [*kept, *(rest[place] for place in order)], self.max_length)


def joined(prompt: str, tags: Sequence[Tag], max_length: int | None = None) -> str:
    """Return the main prompt and the tags that fit, in this order; the main prompt is never cut."""
    parts = [prompt] if prompt else []
    length = len(prompt)
    for tag in tags:
        added = len(tag.text) + (len(SEPARATOR) if parts else 0)
        if max_length is None or length + added <= max_length:
            parts.append(tag.text)
            length += added
    return SEPARATOR.join(parts)


def caption_of(layer: Layer, prompt: str) -> str:
    """Return the caption with its tags in their order, those of larger weight first."""
    by_weight = sorted(layer.tags, key=lambda tag: -tag.weight)
    return joined(prompt, by_weight, layer.max_caption_length)


def shuffle_of(layer: Layer, prompt: str, *, default: bool) -> Shuffle | None:
    """Return what captions are drawn from, None where each visit has the same."""
    wanted = layer.shuffle_tags if layer.shuffle_tags is not None else default
    if not wanted or not layer.tags:
        return None
    return Shuffle(prompt, tuple(sorted(layer.tags, key=lambda tag: -tag.weight)), layer.max_caption_length)
