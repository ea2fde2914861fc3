"""What image files carry besides pixels: colour profiles, and texts that must not decide whether pixels are read."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image

from ed2.data.colour import MAX_PROFILE_BYTES, Primaries, profile_of_adobe_rgb, profile_of_codes, profile_of_gamma

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_XMP = b"XML:com.adobe.xmp\0\0"
_MAX_XMP_BYTES = 1 << 20
_AT_THE_END = {"exif": b"eXIf", "xmp": b"iTXt" + _XMP + b"\0\0\0"}
"""How the chunks begin that say how a PNG is turned, by Pillow's name for their content; an XMP text as plain."""
_END_BYTES = 1 << 14
_MAX_CHUNKS = 100_000
_MAX_CHUNK_READ = 64 << 20
"""No compressed profile of a useful size is larger."""
_COLOUR_CHUNKS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
_UNREADABLE = b"damaged"
"""Stands for a profile that cannot be unpacked: it is reported as any other that is not one."""
_MAX_BOXES = 1000
_MAX_DEPTH = 3
_BOXES_WITH_COLOUR = (b"meta", b"iprp", b"ipco", b"jp2h")
_UNSPECIFIED = 2
_GIF_PROFILE = b"ICCRGBG1012"
_INTEROP_INDEX, _INTEROP_ADOBE = 1, "R03"
_UNCALIBRATED, _EXIF_ADOBE = 0xFFFF, 2
"""Values of ColorSpace in EXIF; the standard has none for Adobe RGB, but some programs write 2."""


def embedded_profile(path: Path, image: Image.Image) -> bytes | None:
    """Return the ICC profile of an opened image, or one made for the codes that it carries instead; None for none.

    What is returned may be broken.
    """
    if reader := _READERS.get(image.format or ""):
        return reader(path)
    profile = image.info.get("icc_profile")
    if profile:
        return bytes(profile[:MAX_PROFILE_BYTES])
    if image.format in ("AVIF", "HEIF"):
        return _container_profile(path)
    if image.mode in ("RGB", "YCbCr") and _says_adobe_rgb(image):
        return profile_of_adobe_rgb()
    return None


def png_without_texts(path: Path) -> io.BytesIO:
    """Return a PNG without its texts and profile, of which Pillow refuses to read large or damaged ones.

    An XMP text of ordinary size stays, since it may say how the image is turned.
    """
    kept = io.BytesIO()
    with path.open("rb") as file:
        kept.write(file.read(len(PNG_SIGNATURE)))
        for name, length in _chunks(file):
            content = file.read(length + 4)  # with its check sum
            is_text = name in (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
            if is_text and not (content.startswith(_XMP) and length <= _MAX_XMP_BYTES and _is_sound(name, content)):
                continue
            if name == b"eXIf" and not _is_sound(name, content):
                continue
            kept.write(struct.pack(">I", length) + name + content)
    kept.seek(0)
    return kept


def behind_pixels(path: Path) -> dict[str, bytes]:
    """Return EXIF and XMP that stand near the end of a PNG, which Pillow finds only by loading all pixels."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, io.SEEK_END) - _END_BYTES))
        end = file.read()
    found = {}
    for kind, start in _AT_THE_END.items():
        place = end.find(start)
        length = int.from_bytes(end[max(0, place - 4) : max(0, place)], "big")
        content = end[place + 4 : place + 4 + length + 4]  # with its check sum
        if place >= 4 and _is_sound(start[:4], content):
            found[kind] = content[len(start) - 4 : -4]
    return found


def _is_sound(name: bytes, content: bytes) -> bool:
    return zlib.crc32(name + content[:-4]) == int.from_bytes(content[-4:], "big")


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield the name and length of each chunk; the file is then at its content."""
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[:4], "big")
        following = file.tell() + length + 4
        yield head[4:], length
        file.seek(following)


def _png_profile(path: Path) -> bytes | None:
    """Return the profile of a PNG, by the strongest of its chunks about colours."""
    found: dict[bytes, bytes] = {}
    with path.open("rb") as file:
        file.seek(len(PNG_SIGNATURE))
        for name, length in _chunks(file):
            if name in (b"IDAT", b"IEND"):
                break
            if name in _COLOUR_CHUNKS and length <= _MAX_CHUNK_READ:
                found[name] = file.read(length)
    if not found:
        return None
    codes = found.get(b"cICP", b"")
    if len(codes) == 4 and _UNSPECIFIED not in codes[:2]:
        return profile_of_codes(codes[0], codes[1])
    if b"iCCP" in found:
        return _unpacked(found[b"iCCP"])
    if b"sRGB" in found or len(found.get(b"gAMA", b"")) != 4:
        return None
    return profile_of_gamma(int.from_bytes(found[b"gAMA"], "big") / 100_000, _primaries(found.get(b"cHRM", b"")))


def _primaries(content: bytes) -> Primaries | None:
    """Return the points of a cHRM chunk, in which white comes first."""
    if len(content) != 32:
        return None
    n = [number / 100_000 for number in struct.unpack(">8I", content)]
    return (n[2], n[3]), (n[4], n[5]), (n[6], n[7]), (n[0], n[1])


def _unpacked(content: bytes) -> bytes:
    """Return the profile in an iCCP chunk, without unpacking more than a profile may have."""
    _, _, packed = content.partition(b"\0")
    try:
        unpacker = zlib.decompressobj()
        profile = unpacker.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return _UNREADABLE
    return profile if unpacker.eof and profile else _UNREADABLE


def _container_profile(path: Path) -> bytes | None:
    """Return the profile for the codes (nclx) in an AVIF or HEIF file."""
    with path.open("rb") as file:
        for colour in _colour_boxes(file, path.stat().st_size):
            if colour[:4] == b"nclx" and len(colour) >= 8:
                codes = struct.unpack(">HH", colour[4:8])
                if _UNSPECIFIED in codes:
                    return None
                return profile_of_codes(*codes)
    return None


def _jpeg2000_profile(path: Path) -> bytes | None:
    """Return the profile in a JPEG 2000, which Pillow does not report."""
    with path.open("rb") as file:
        for colour in _colour_boxes(file, path.stat().st_size):
            if colour[:1] in (b"\2", b"\3"):  # a restricted or any ICC profile
                return colour[3:]
    return None


def _colour_boxes(file: BinaryIO, end: int, depth: int = 0) -> Iterator[bytes]:
    """Yield the contents of the boxes about colour, from here to `end` and in the boxes that may hold one."""
    for _ in range(_MAX_BOXES):
        start = file.tell()
        head = file.read(8)
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if length < 8 or start + length > end:  # the end, or a box that reaches up to it or has more than 4 GB
            return
        if name == b"colr":
            yield file.read(min(length - 8, MAX_PROFILE_BYTES))
        elif name in _BOXES_WITH_COLOUR and depth < _MAX_DEPTH:
            file.seek(4 if name == b"meta" else 0, io.SEEK_CUR)
            yield from _colour_boxes(file, start + length, depth + 1)
        file.seek(start + length)


def _bmp_profile(path: Path) -> bytes | None:
    """Return the profile in a BMP of version 5."""
    with path.open("rb") as file:
        head = file.read(138)
        if len(head) < 138 or head[14:18] != struct.pack("<I", 124) or head[70:74] != b"DEBM":
            return None
        place, length = struct.unpack("<II", head[126:134])
        file.seek(14 + place)
        return file.read(min(length, MAX_PROFILE_BYTES)) or _UNREADABLE


def _gif_profile(path: Path) -> bytes | None:
    """Return the profile in a GIF, which Pillow does not report; it is in blocks before the first frame."""
    with path.open("rb") as file:
        head = file.read(13)
        if head[10] & 0x80:  # a table of colours follows
            file.seek(3 << ((head[10] & 7) + 1), io.SEEK_CUR)
        for _ in range(_MAX_BOXES):
            mark, size = file.read(2), file.read(1)
            if mark[:1] != b"!" or not size:
                return None
            name = file.read(size[0])
            is_profile = mark == b"!\xff" and name == _GIF_PROFILE
            content = b"".join(_gif_blocks(file)) if size[0] else b""
            if is_profile:
                return content[:MAX_PROFILE_BYTES] or _UNREADABLE
    return None


def _gif_blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the blocks of up to 255 bytes up to the empty one that ends them."""
    for _ in range(MAX_PROFILE_BYTES // 255):
        size = file.read(1)
        if not size or not size[0]:
            return
        yield file.read(size[0])


def _says_adobe_rgb(image: Image.Image) -> bool:
    """Whether EXIF names Adobe RGB, as cameras do that embed no profile."""
    try:
        exif = image.getexif()
        camera = exif.get_ifd(ExifTags.IFD.Exif) if exif else {}
        space = camera.get(ExifTags.Base.ColorSpace)
        has_index = ExifTags.IFD.Interop in camera
        index = exif.get_ifd(ExifTags.IFD.Interop).get(_INTEROP_INDEX) if has_index else None
    except Exception:  # a broken EXIF block says nothing about the pixels
        return False
    is_adobe = str(index).rstrip("\0 ") == _INTEROP_ADOBE
    return space == _EXIF_ADOBE or (space in (None, _UNCALIBRATED) and is_adobe)


_READERS: Mapping[str, Callable[[Path], bytes | None]] = {
    "PNG": _png_profile,
    "JPEG2000": _jpeg2000_profile,
    "BMP": _bmp_profile,
    "GIF": _gif_profile,
}
"""For formats whose profiles Pillow does not report, or not all of them."""
