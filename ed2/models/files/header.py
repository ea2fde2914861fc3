"""The header of a safetensors file: names, shapes and types of its tensors, without reading them. Needs no torch.

Checked before anything is loaded, so that a file that is something else, is cut short or is malicious costs nothing
and gets a plain error. Source of the format: https://github.com/huggingface/safetensors#format
"""

import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ed2.errors import Ed2Error, printable, shown
from ed2.small_files import open_file, read_beginning
from ed2.text import counted

MAX_HEADER_BYTES = 16 << 20
"""A full SD model has some 150 KB; the format itself allows 100 MB."""
MAX_TENSORS = 10_000
MAX_DIMENSIONS = 8
METADATA = "__metadata__"
NUM_BITS = (
    dict.fromkeys(("F64", "I64", "U64"), 64)
    | dict.fromkeys(("F32", "I32", "U32"), 32)
    | dict.fromkeys(("F16", "BF16", "I16", "U16"), 16)
    | dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 8)
)
"""Bits of a number of each kind that a tensor may have."""

AGAIN = "Get the file again."
SAFE = "Get the .safetensors of this model."
_IMAGE = ("this is an image, not a model", "Choose the folder or file of a model.")
_OTHER_FILES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "this is a Git LFS pointer, not the model", "Run 'git lfs pull' where it came from."),
    (b"PK\x03\x04", "this is a PyTorch or ZIP file, not a safetensors file", SAFE),
    *((bytes([0x80, protocol]), "this is a pickle, a format that can run code", SAFE) for protocol in range(2, 6)),
    (b"GGUF", "this is a GGUF file, which cannot be used here", SAFE),
    (b"\x89HDF", "this is an HDF5 file, which cannot be used here", SAFE),
    (b"Rar!", "this is a RAR archive", "Unpack it."),
    (b"7z\xbc\xaf", "this is a 7z archive", "Unpack it."),
    *((mark, *_IMAGE) for mark in (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8")),
)
_PICKLE_MARKS = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
_PAGE_MARKS = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")


class HeaderError(Ed2Error):
    """A file whose tensors cannot be read: `what` is wrong, and how to `fix` it."""

    def __init__(self, what: str, fix: str = AGAIN) -> None:
        super().__init__(f"{what}.", fix=fix)


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    Attributes:
        shapes: by the tensors' names.
        dtypes: the format's own names, such as F16.
        metadata: texts beside the tensors; anyone may have written them.
        places: where the bytes of each tensor start and end in the file.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]
    places: dict[str, tuple[int, int]]

    @property
    def num_weights(self) -> int:
        """Numbers in all tensors."""
        return sum(map(math.prod, self.shapes.values()))


def is_pickle(path: Path) -> bool:
    """Whether a file is one of PyTorch's, a ZIP or a pickle, by its first bytes; false if it cannot be read."""
    try:
        begin = read_beginning(path, 9)
    except OSError:
        return False
    return begin[8:9] != b"{" and begin.startswith(_PICKLE_MARKS)


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file: the tensors follow each other, and the file is complete.

    Raises:
        HeaderError: it is something else, damaged, or cut short.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise HeaderError("this is not a file", "Choose a .safetensors file.")
        with open_file(path) as file:
            begin = file.read(1024)
            _refuse_other_files(begin, size)
            (length,) = struct.unpack("<Q", begin[:8])
            if begin[8:9] != b"{" and length > MAX_HEADER_BYTES:  # the number would only be other bytes of some file
                raise HeaderError("this is not a safetensors file")
            _refuse_length(length, size)
            file.seek(8)
            content = file.read(length)
    except OSError as error:
        raise HeaderError(f"it cannot be read ({error.strerror or error})", "Check the file and the disk.") from None
    values = _parsed(content)
    metadata = values.pop(METADATA, {})
    header = Header({}, {}, {}, {})
    for name, value in values.items():
        _add_tensor(header, name, value, 8 + length)
    _require_whole(header.places, 8 + length, size)
    for key, text in metadata.items() if isinstance(metadata, dict) else ():
        if isinstance(text, str):
            header.metadata[str(key)] = text
    return header


def _refuse_other_files(begin: bytes, size: int) -> None:
    if not size:
        raise HeaderError("the file is empty")
    if not begin.strip(b"\0"):
        raise HeaderError("the file begins with only zeros, like an unfinished download")
    if size < 8:
        raise HeaderError(f"the file is cut short at {counted(size, 'byte')}")
    if begin[8:9] != b"{":  # the length before it may look like another format's signature
        _refuse_other_format(begin)


def _refuse_other_format(begin: bytes) -> None:
    for mark, what, fix in _OTHER_FILES:
        if begin.startswith(mark):
            raise HeaderError(what, fix)
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_PAGE_MARKS):
        raise HeaderError("this is a web page (HTML), not a model", "The download failed: get it again.")
    if text.startswith((b"{", b"[")):
        raise HeaderError("this is a text file, not a model")


def _refuse_length(length: int, size: int) -> None:
    if size - 8 < length <= MAX_HEADER_BYTES:
        raise HeaderError(f"the file is cut short at {size:,} bytes")
    if length > MAX_HEADER_BYTES:
        raise HeaderError(f"this is not a safetensors file: its header would have {length:,} bytes")


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content, object_pairs_hook=_unique_names)
    except HeaderError:
        raise
    except (ValueError, RecursionError):
        raise HeaderError("the file is damaged: its header is invalid JSON") from None
    if not isinstance(values, dict):
        raise HeaderError("the file is damaged: its header lists no tensors")
    if len(values) > MAX_TENSORS:
        raise HeaderError(f"it has {len(values):,} tensors; no known model has more than {MAX_TENSORS:,}")
    if not values.keys() - {METADATA}:
        raise HeaderError("it contains no tensors")
    return values


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise HeaderError(f"the file is damaged: two of its tensors are called {printable(twice)}")
    return values


def _add_tensor(header: Header, name: str, value: object, base: int) -> None:
    """Check the entry of a tensor and add it to the header; its offsets count from `base`."""
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise HeaderError(f"the file is damaged: its entry for {printable(name)} is {shown(value)}")
    if dtype not in NUM_BITS:
        raise HeaderError(f"{printable(name)} has an unsupported number format ({printable(dtype)})")
    if len(shape) > MAX_DIMENSIONS or not all(type(side) is int and side >= 0 for side in shape):
        raise HeaderError(f"the file is damaged: {printable(name)} has the shape {shown(shape)}")
    if not 0 <= start <= end or (end - start) * 8 != math.prod(shape) * NUM_BITS[dtype]:
        raise HeaderError(f"the file is damaged: the offsets of {printable(name)} do not fit its shape")
    header.shapes[name], header.dtypes[name] = tuple(shape), dtype
    header.places[name] = base + start, base + end


def _require_whole(places: Mapping[str, tuple[int, int]], base: int, size: int) -> None:
    """Check that the tensors follow each other without gaps, from `base` up to the end of the file."""
    place = base
    for name, (start, end) in sorted(places.items(), key=lambda item: item[1]):
        if start != place:
            how = "overlaps another tensor" if start < place else "has a gap before it"
            raise HeaderError(f"the file is damaged: {printable(name)} {how}")
        place = end
    if place > size:
        missing, whole = place - size, place - base
        raise HeaderError(f"the file is cut short: {missing:,} of {whole:,} bytes of its tensors are missing")
    if place < size:
        raise HeaderError(f"the file is damaged: it is {size - place:,} bytes longer than its header says")
