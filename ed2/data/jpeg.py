"""JPEGs of more pixels than are kept in memory: phones make 108 and 200 million. They are decoded smaller."""

from pathlib import Path

from PIL.JpegImagePlugin import JpegImageFile

MAX_JPEG_PIXELS = 400_000_000
"""At half the size in each direction, these are as many as other formats may have."""
_MAX_COEFFICIENT_BYTES = 620 << 20
"""What a progressive JPEG may need besides its pixels: as much as one of 100 million pixels without subsampling."""
_MAX_SEGMENTS = 100_000
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
_START_OF_SCAN = 0xDA
_FRAMES_IN_ONE_GO = (0xC0, 0xC1)


def starts_like_jpeg(path: Path) -> bool:
    """Tell whether a file begins as a JPEG does."""
    with path.open("rb") as file:
        return file.read(3) == b"\xff\xd8\xff"


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
