"""Finds what is wrong with a file that cannot be read as an image or that shows nothing, and what to do about it."""

import errno
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ed2.data.file_kinds import CONVERT, starts_like_image, unsupported_format

_REPLACE = "Replace it with a good copy, or delete it."
_REPLACE_OR_CONVERT = "Replace it with a PNG, JPEG or WebP, or delete it."
_HEAD_BYTES = 1024
_PROBE = (16, 16)
"""A sample of pixels, which is enough to tell that an image does show something."""

_NO_IMAGES = {b"%PDF": "PDF", b"PK\x03\x04": "ZIP", b"Rar!": "RAR", b"7z\xbc\xaf": "7z", b"\x1f\x8b": "gzip"}
"""Signatures of files that only their name can make an image, with the format's common name."""

_BOMB_LIMITS = ("MAX_TEXT_CHUNK", "MAX_TEXT_MEMORY")
"""Names of Pillow's limits, as they appear in its errors."""

_SYSTEM_ERRORS: tuple[tuple[type[Exception], str, str], ...] = (
    (FileNotFoundError, "the file no longer exists", "Put it back, or continue without it."),
    (PermissionError, "the file cannot be read (permission denied)", "Change its permissions."),
    (IsADirectoryError, "this is a folder, not an image", "Rename it."),
)
_OUT_OF_MEMORY = ("there is not enough memory to read it", "Make it smaller, or lower decode_threads.")


def diagnose(path: Path, error: Exception) -> tuple[str, str]:
    """Return what is wrong with a file whose reading as an image raised `error`, and what to do."""
    what, fix = _cause(path, error)
    return f"{what}.", fix


def _cause(path: Path, error: Exception) -> tuple[str, str]:
    for kind, what, fix in _SYSTEM_ERRORS:
        if isinstance(error, kind):
            return what, fix
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "it is a link that points to itself", "Delete or repair it."
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            size = path.stat().st_size
            file.seek(max(0, size - _HEAD_BYTES))
            tail = file.read(_HEAD_BYTES)
    except OSError as trouble:
        return f"the file cannot be read ({trouble.strerror or trouble})", "Check the disk, or replace the file."
    return _by_content(head) or _by_damage(head, tail, size, error)


def _by_content(head: bytes) -> tuple[str, str] | None:
    """Recognise a file that is not an image of a supported format."""
    if not head:
        return "the file is empty", _REPLACE
    if not head.strip(b"\0"):
        return "the file contains only zeros", _REPLACE
    other = _other_format(head)
    if other:
        return f"the {other} format is not supported", CONVERT
    return _by_text(head)


def _other_format(head: bytes) -> str:
    for mark, name in _NO_IMAGES.items():
        if head.startswith(mark):
            return name
    if head[8:12] == b"AVI ":
        return "AVI video"
    if head[4:8] == b"ftyp" and not starts_like_image(head):
        return "MP4 video"
    return unsupported_format(head)


def _by_text(head: bytes) -> tuple[str, str] | None:
    """Recognise a text file with the name of an image."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in start:
        return "the SVG format is not supported", CONVERT
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return "this is a web page (HTML), not an image", "The download failed: download it again, or delete the file."
    if start.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not an image", "Run 'git lfs pull' in its repository."
    if not starts_like_image(head) and _is_text(head):
        return "this is text, not an image", "Replace it with the image, or delete it."
    return None


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The end of `head` may cut a character in two.
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character.isspace() for character in text)


def _by_damage(head: bytes, tail: bytes, size: int, error: Exception) -> tuple[str, str]:
    """Describe the damage to a file that starts like an image."""
    if _is_cut_short(head, tail, size, error):
        return f"the file is cut short at {size:,} bytes", _REPLACE
    if not starts_like_image(head):
        return "this is not an image in a supported format", _REPLACE_OR_CONVERT
    if isinstance(error, UnidentifiedImageError):
        return "the file is damaged (its header makes no sense)", _REPLACE
    if isinstance(error, MemoryError):
        return _OUT_OF_MEMORY
    reason = " ".join(str(error).split())
    if any(mark in reason for mark in _BOMB_LIMITS):
        return "a text or colour profile in it is too large once unpacked", _REPLACE
    return f"the file is damaged ({reason or 'its parts are inconsistent'})", _REPLACE


def _is_cut_short(head: bytes, tail: bytes, size: int, error: Exception) -> bool:
    """Tell whether a file is too short, by its end marker or the size in its header, or else by the error's words."""
    if head.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if head.startswith(b"GIF8"):
        return not tail.rstrip(b"\0").endswith(b";")
    if head.startswith(b"RIFF"):
        return size < 8 + int.from_bytes(head[4:8], "little")
    if head.startswith(b"BM"):
        return size < int.from_bytes(head[2:6], "little")
    return any(word in str(error).lower() for word in ("truncat", "end of file"))


def is_transparent(image: Image.Image) -> bool:
    """Tell whether no pixel of a loaded image can be seen."""
    if not image.has_transparency_data:
        return False
    return _has_no_alpha(image.resize(_PROBE, Image.Resampling.NEAREST)) and _has_no_alpha(image)


def _has_no_alpha(image: Image.Image) -> bool:
    return image.convert("RGBA").getchannel("A").getextrema() == (0, 0)


def is_plain(image: Image.Image) -> bool:
    """Tell whether all pixels of a loaded image have the same colour."""
    return _has_one_value(image.resize(_PROBE, Image.Resampling.NEAREST)) and _has_one_value(image)


def _has_one_value(image: Image.Image) -> bool:
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in bands)
