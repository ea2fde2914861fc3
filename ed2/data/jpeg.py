"""JPEGs: their size by a quick look at the header, and those of more pixels than are kept in memory.

Phones make 108 and 200 million pixels, which are decoded smaller.
"""

import os
import stat
from pathlib import Path

from PIL.JpegImagePlugin import JpegImageFile

from ed2.small_files import READ_FLAGS

JPEG_MARK = b"\xff\xd8\xff"
"""The first bytes of every JPEG."""
MAX_JPEG_PIXELS = 400_000_000
"""At half the size in each direction, these are as many as other formats may have."""
_MAX_COEFFICIENT_BYTES = 620 << 20
"""What a progressive JPEG may need besides its pixels: as much as one of 100 million pixels without subsampling."""
_MAX_SEGMENTS = 100_000
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
_START_OF_SCAN = 0xDA
_FRAMES_IN_ONE_GO = (0xC0, 0xC1)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HEADER_BYTES = 4096
_APP1 = 0xE1
_EXIF = b"Exif\0\0"
_ORIENTATION = (0x0112, 3, 1)
"""Its tag, type (a whole number of two bytes) and count. Source: Exif 2.32, section 4.6.4."""


def header_size(path: Path | str) -> tuple[int, int] | None:
    """Return the upright width and height by one read of the first bytes; None if they do not say for sure.

    A file in which anything is unusual is left to the libraries, which take ten times as long.
    """
    handle = os.open(path, READ_FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        head = os.read(handle, _HEADER_BYTES)
    finally:
        os.close(handle)
    if not head.startswith(JPEG_MARK):
        return None
    return _size_in(head)


def _size_in(head: bytes) -> tuple[int, int] | None:
    """Walk over the segments to the frame, which holds the size; the one of Exif before it may turn it."""
    place, orientation = 2, 1
    while place + 9 <= len(head) and head[place] == 0xFF:
        mark, length = head[place + 1], int.from_bytes(head[place + 2 : place + 4], "big")
        if mark in _FRAMES:
            return _turned(head[place + 5 : place + 9], orientation)
        if mark in _WITHOUT_LENGTH or mark == 0xFF or length < 2:
            return None
        if mark == _APP1:
            found = _orientation_in(head[place + 4 : place + 2 + length]) if orientation == 1 else None
            if found is None:
                return None
            orientation = found
        place += 2 + length
    return None


def _turned(numbers: bytes, orientation: int) -> tuple[int, int] | None:
    """Return width and height from height and width as a frame has them; a height of 0 stands elsewhere."""
    height, width = int.from_bytes(numbers[:2], "big"), int.from_bytes(numbers[2:], "big")
    if not height or not width:
        return None
    if orientation >= 5:
        return height, width
    return width, height


def _orientation_in(segment: bytes) -> int | None:
    """Return the orientation in a segment of Exif, 1 if it gives none; None for other segments and unusual ones."""
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(segment[6:10])
    if not segment.startswith(_EXIF) or order is None:
        return None
    tiff = segment[6:]

    def number(start: int, size: int) -> int:
        return int.from_bytes(tiff[start : start + size], order)  # type: ignore[arg-type]

    first = number(4, 4)
    count = number(first, 2)
    if first < 8 or first + 2 + 12 * count > len(tiff):
        return None
    for entry in range(first + 2, first + 2 + 12 * count, 12):
        if number(entry, 2) == _ORIENTATION[0]:
            value = number(entry + 8, 2)
            is_usual = (number(entry + 2, 2), number(entry + 4, 4)) == _ORIENTATION[1:] and 1 <= value <= 8
            if not is_usual:
                return None
            return value
    return 1


def has_bounded_memory(path: Path, image: JpegImageFile) -> bool:
    """Tell whether a large JPEG can be decoded smaller without much memory.

    Most are decoded row by row. A progressive one, or one with a scan for each colour, is held in memory whole.
    """
    if _is_row_by_row(path, len(image.layer)):
        return True
    layers = [(horizontal, vertical) for _, horizontal, vertical, _ in image.layer]
    widest, tallest = max(h for h, _ in layers), max(v for _, v in layers)
    share = sum(horizontal * vertical for horizontal, vertical in layers) / (widest * tallest)
    return 2 * share * image.width * image.height <= _MAX_COEFFICIENT_BYTES


def _is_row_by_row(path: Path, num_layers: int) -> bool:
    """Read the segments up to the first scan; one with all colours, in a frame that is not progressive, is enough."""
    is_sequential = False
    with path.open("rb") as file:
        file.seek(2)
        for _ in range(_MAX_SEGMENTS):
            mark = file.read(2)
            while mark == b"\xff\xff":  # filling
                mark = b"\xff" + file.read(1)
            if len(mark) < 2 or mark[0] != 0xFF:
                return False
            if mark[1] in _WITHOUT_LENGTH:
                continue
            length = int.from_bytes(file.read(2), "big")
            if mark[1] in _FRAMES_IN_ONE_GO:
                is_sequential = True
            if mark[1] == _START_OF_SCAN:
                return is_sequential and file.read(1) == bytes([num_layers])
            if length < 2:
                return False
            file.seek(length - 2, 1)
    return False
