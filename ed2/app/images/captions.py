"""Captions that are longer than the text encoder reads, counted with the model's own tokenizer."""

from collections.abc import Callable, Iterator, Sequence

from ed2.data.example import Example
from ed2.text import counted

NAMED = 3
"""How many images a note names."""

Count = Callable[[Sequence[str]], list[int]]
"""Numbers of tokens of some texts, without the marks of begin and end."""


def long_captions(examples: Sequence[Example], count: Count, limit: int) -> list[tuple[Example, int]]:
    """Return the images whose caption has more than `limit` tokens, with its number of tokens."""
    # A token is at least a byte, so that most captions need no counting.
    suspects = [example for example in examples if len(example.caption.encode()) > limit]
    counts = [number for part in _parts(suspects) for number in count([example.caption for example in part])]
    return [(example, number) for example, number in zip(suspects, counts, strict=True) if number > limit]


def caption_note(found: Sequence[tuple[Example, int]], limit: int) -> str:
    """Return a sentence on captions that are too long, empty where there are none."""
    if not found:
        return ""
    longest = sorted(found, key=lambda pair: -pair[1])[:NAMED]
    names = ", ".join(f"{example.name} ({number})" for example, number in longest)
    many = f"{counted(len(found), 'caption')} {'has' if len(found) == 1 else 'have'}"
    end = ", ..." if len(found) > NAMED else "."
    return f"{many} more than {limit} tokens, and what is beyond is not read: {names}{end}"


def _parts(examples: Sequence[Example], size: int = 1000) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), size):
        yield examples[start : start + size]
