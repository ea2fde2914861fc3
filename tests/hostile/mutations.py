"""Valid files with a few bytes or a value changed: the same changes for the same seed on every machine."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

SPECIAL = [b"\0", b"\xff", b"-", b"[", b"]", b"{", b"}", b'"', b",", b":", b"9" * 30, b"1e999", b"null", b"NaN",
           b"\\ud800", b"../", b"&a *a", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0\0\0\0\0"]  # fmt: skip
"""What parsers stumble over."""
UNEXPECTED = [b"Infinity", b"-Infinity", b"NaN", b"1e999", b"9" * 30, b"9" * 400, b"-1", b"0.5", b"null", b"true",
              b"[]", b"{}", b'"x"', b'"\\ud800"', b'"\\u0000"', b"[null]", b'[["x"]]', b'{"x": []}', b"[" * 200_000,
              b'{"a":' * 100_000, b"[" * 800 + b"]" * 800, b"[" * 60 + b"]" * 60]  # fmt: skip
"""Values of JSON, some of them none, of which every reader expects few."""
PLACE = "the place of the value"


def mutated(content: bytes, generator: np.random.Generator) -> bytes:
    """Return `content` after one to four changes; one in four of them near its beginning, where headers are."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        reach = len(data) if generator.random() < 0.75 else min(len(data), 200)
        place = int(generator.integers(0, reach + 1))
        _change(data, place, generator)
    return bytes(data)


def misshapen(content: bytes, generator: np.random.Generator) -> bytes:
    """Return JSON, or JSONL, with a value of it, one time in four all of it, replaced by one that is `UNEXPECTED`."""
    value = UNEXPECTED[int(generator.integers(len(UNEXPECTED)))]
    lines = content.splitlines() if is_json(content.splitlines()[0]) else [content]
    number = int(generator.integers(len(lines)))
    whole = json.loads(lines[number])
    places = list(_places(whole))
    if places and generator.random() < 0.75:
        holder, key = places[int(generator.integers(len(places)))]
        holder[key] = PLACE
        value = json.dumps(whole).encode().replace(f'"{PLACE}"'.encode(), value)
    return b"\n".join([*lines[:number], value, *lines[number + 1 :], b""])


def is_json(content: bytes) -> bool:
    """Whether `content` is JSON, or its first line is."""
    try:
        json.loads(content)
    except ValueError:
        return b"\n" in content and is_json(content.splitlines()[0])
    return True


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each value that stands in another: that, and where it stands."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield value, key
        yield from _places(item)


def _change(data: bytearray, place: int, generator: np.random.Generator) -> None:
    length = int(generator.integers(1, 33))
    end = min(place + length, len(data))
    match int(generator.integers(0, 8)):
        case 0 if place < len(data):
            data[place] ^= 1 << int(generator.integers(8))
        case 1:
            data[place:end] = generator.bytes(end - place)
        case 2:
            data[place:end] = bytes(end - place)
        case 3:
            del data[place:end]
        case 4:
            del data[place:]
        case 5:
            data[place:place] = data[place:end] * int(generator.integers(1, 20))
        case 6:
            data[place:end] = SPECIAL[int(generator.integers(len(SPECIAL)))]
        case _:
            data[place:place] = SPECIAL[int(generator.integers(len(SPECIAL)))]
