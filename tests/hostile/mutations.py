"""Valid files with a few bytes changed: the same changes for the same seed on every machine."""

import numpy as np

SPECIAL = [b"\0", b"\xff", b"-", b"[", b"]", b"{", b"}", b'"', b",", b":", b"9" * 30, b"1e999", b"null", b"NaN",
           b"\\ud800", b"../", b"&a *a", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0\0\0\0\0"]  # fmt: skip
"""What parsers stumble over."""


def mutated(content: bytes, generator: np.random.Generator) -> bytes:
    """Return `content` after one to four changes; one in four of them near its beginning, where headers are."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        reach = len(data) if generator.random() < 0.75 else min(len(data), 200)
        place = int(generator.integers(0, reach + 1))
        _change(data, place, generator)
    return bytes(data)


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
