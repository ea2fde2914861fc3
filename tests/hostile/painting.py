"""Making images, whole and by hand."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif", "AVIF": "avif"}
SIZE = (72, 64)
DAMAGED = r"cut short|damaged|too large once unpacked"
TOO_MANY = r"too many pixels"
TOO_SMALL = r"the short side must be"
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def noise(size: tuple[int, int] = SIZE, seed: int = 1) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(name + data) if crc is None else crc
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)


def png(size: tuple[int, int], *chunks: bytes, depth: int = 8, colour: int = 2, data: bytes | None = None) -> bytes:
    """A PNG put together by hand; `chunks` stand between head and pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 3)
    if data is None:
        row = bytes(1 + (size[0] * channels * depth + 7) // 8)
        data = zlib.compress(row * size[1], 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    return SIGNATURE + head + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
