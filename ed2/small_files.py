"""Reads small files that may be damaged or hostile, within limits and without blocking; invalid ones are refused."""

import errno
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from ed2.disk_errors import wait_for_handles

MAX_JSON_BYTES = 256 << 20
"""Larger than any JSON file of this program."""
MAX_DEPTH = 100
"""Nested brackets; Python fails at about ten times as many, some libraries earlier."""
MAX_DIGITS = 60
"""Of an integer; one of over 308 digits does not fit into a float."""
MAX_LINE_BYTES = 16 << 20
"""Longer than any line that this program writes."""
READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""To open a file that may turn out to be a named pipe or a device, which could block forever."""
NO_FILE = "it is not a file"
TOO_DEEP = "its brackets are nested too deeply"
_HOLDERS = (dict, list)


def is_file(path: Path) -> bool:
    """Whether the path is a file; false as well for an impossible name, and in a folder that may not be read."""
    return os.path.isfile(path)  # noqa: PTH113 -- unlike Path.is_file it never raises


def exists(path: Path) -> bool:
    """Whether the path exists; false in the same cases."""
    return os.path.exists(path)  # noqa: PTH110 -- unlike Path.exists it never raises


def open_file(path: Path) -> BinaryIO:
    """Open a regular file to read it; a named pipe or a device could block forever.

    While this program has too many files open, it waits.

    Raises:
        OSError: it cannot be read, or is a folder, a pipe or a device.
    """
    return os.fdopen(_open(path), "rb")


def read_beginning(path: Path | str, most: int) -> bytes:
    """The first bytes of a regular file, at most `most`. Raises OSError as `open_file` does."""
    handle = _open(path)
    try:
        content = os.read(handle, most)
        while len(content) < most and (more := os.read(handle, most - len(content))):
            content += more
        return content
    finally:
        os.close(handle)


def _open(path: Path | str) -> int:
    try:
        handle = wait_for_handles(lambda: os.open(path, READ_FLAGS))
    except OSError:
        if Path(path).is_dir():  # Windows reports this as denied permission
            raise OSError(errno.EINVAL, NO_FILE, str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, NO_FILE, str(path))
    return handle


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file without their ends; lines longer than `MAX_LINE_BYTES` are skipped.

    Raises:
        OSError: as `open_file` does.
    """
    is_rest = False
    with open_file(path) as file:
        while part := file.readline(MAX_LINE_BYTES):
            is_end = part.endswith(b"\n")
            if not is_rest and (is_end or len(part) < MAX_LINE_BYTES):
                yield part.removesuffix(b"\n")
            is_rest = not is_end


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is invalid, nested too deeply, or has a number that is not finite or too large.
    """
    try:
        value = json.loads(content, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _require_shallow(value)
    return value


def parse_object(content: bytes | str) -> dict[str, Any]:
    """The object of a JSON text. Raises ValueError where it is invalid or not an object."""
    return _require_object(parse_json(content))


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: it cannot be read, or is not a regular file.
        ValueError: it is invalid or too large.
    """
    with open_file(path) as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"it is larger than {MAX_JSON_BYTES >> 20} MB")
    return parse_json(content)


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file. Raises OSError where it cannot be read, ValueError where it is not a valid object."""
    return _require_object(read_json(path))


def objects_in(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the objects in the lines of a JSONL file; torn and invalid lines are skipped."""
    for line in lines:
        try:
            value = parse_object(line)
        except ValueError:
            continue
        yield value


def _require_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def _require_shallow(value: object) -> None:
    """Refuse what is nested too deeply. Works level by level, without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for item in chain(*map(_held, level)) if isinstance(item, _HOLDERS)]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def _held(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    if not isinstance(value, list):
        return ()
    return value


def _no_number(text: str) -> object:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits is too large")
    return int(text)
