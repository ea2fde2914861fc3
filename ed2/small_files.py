"""Small files that others may have written, or a bad disk: read in bounds, understood or refused, never waited for."""

import errno
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON_BYTES = 256 << 20
"""More than any file of JSON that this program writes."""
MAX_DEPTH = 100
"""Brackets within brackets; Python gives up at about ten times as many, some libraries before."""
MAX_DIGITS = 60
"""Of a whole number; one of over 308 is too large for other numbers."""
MAX_LINE_BYTES = 16 << 20
"""More than any line that this program writes."""
NO_FILE = "it is not a file"
TOO_DEEP = "its brackets lie too deep in each other"
_HOLDERS = (dict, list)


def opened(path: Path) -> BinaryIO:
    """Open a file to read it: nothing but a file, since a named pipe or a device would be waited for without an end.

    Raises:
        OSError: it cannot be read, or is a folder, a pipe or a device.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError:
        if path.is_dir():  # Windows says that permission is denied
            raise OSError(errno.EINVAL, NO_FILE, str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, NO_FILE, str(path))
    return os.fdopen(handle, "rb")


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file, one after the other, without their ends; one that is longer than any of ours is left out.

    Raises:
        OSError: as `opened` does.
    """
    is_rest = False
    with opened(path) as file:
        while part := file.readline(MAX_LINE_BYTES):
            is_end = part.endswith(b"\n")
            if not is_rest and (is_end or len(part) < MAX_LINE_BYTES):
                yield part.removesuffix(b"\n")
            is_rest = not is_end


def parsed(content: bytes | str) -> Any:
    """What a text in JSON holds.

    Raises:
        ValueError: it is no proper JSON, nested too deep, or has a number that is none or too large to count with.
    """
    try:
        value = json.loads(content, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _require_shallow(value)
    return value


def parsed_object(content: bytes | str) -> dict[str, Any]:
    """The names and values that a text in JSON holds. Raises ValueError, also where it holds anything else."""
    value = parsed(content)
    if not isinstance(value, dict):
        raise ValueError("it holds no names with values")
    return value


def read_json(path: Path) -> Any:
    """What a file of JSON holds.

    Raises:
        OSError: it cannot be read, or is no file.
        ValueError: it cannot be understood, or is too large for one of ours.
    """
    with opened(path) as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"it is larger than {MAX_JSON_BYTES >> 20} MB")
    return parsed(content)


def read_object(path: Path) -> dict[str, Any]:
    """The names and values in a file of JSON. Raises OSError and ValueError, also where it holds anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError("it holds no names with values")
    return value


def objects_in(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The objects in the lines of a JSONL file; lines that are torn or cannot be understood are passed over."""
    for line in lines:
        try:
            value = parsed_object(line)
        except ValueError:
            continue
        yield value


def _require_shallow(value: object) -> None:
    """Refuse what is nested too deep. Looks at one level after the other, and so at no depth itself."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for one in level for item in _held(one) if isinstance(item, _HOLDERS)]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def _held(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _no_number(text: str) -> object:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits is too large")
    return int(text)
