"""The caption of a picture: from a text file beside it, else from its own name."""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CAPTION_EXTENSIONS = ("txt", "caption")
"""The first that is there is read."""
MAX_BYTES = 64 * 1024
"""More than this is no caption."""

CaptionNote = Literal["guessed", "cut", "file name", "no caption"]


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption, and what is worth telling about how it was come by."""

    text: str
    note: CaptionNote | None = None
    detail: str = ""


def caption_of(image: Path, text_file: Path | None) -> Caption:
    """Return the caption of a picture.

    Args:
        image: the picture; its name up to the first underscore serves where there is no text.
        text_file: the caption file beside it, None where there is none.
    """
    if text_file is None:
        return _from_name(image, "there is no caption file")
    try:
        with text_file.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        return _from_name(image, f"{text_file.name} cannot be read ({error.strerror or error})")
    text, is_guessed = decode_text(data[:MAX_BYTES])
    text = _on_one_line(text)
    if not text:
        return _from_name(image, f"{text_file.name} is empty")
    if is_guessed:
        return Caption(text, "guessed", f"{text_file.name} is not UTF-8 and was read as Western European (cp1252)")
    if len(data) > MAX_BYTES:
        return Caption(text, "cut", f"only the first {MAX_BYTES // 1024} KB of {text_file.name} were read")
    return Caption(text)


def decode_text(data: bytes) -> tuple[str, bool]:
    """Return the text in `data` without NULs, and whether its encoding had to be guessed. Never fails.

    In this order: a byte order mark; UTF-16 where at least 30 % of an even number of bytes are NUL; UTF-8; cp1252, and
    Latin-1 where even that does not fit.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _clean(data.decode("utf-16", "ignore")), False
    if data and len(data) % 2 == 0 and data.count(0) >= 0.3 * len(data):
        is_little = data[1::2].count(0) >= data[0::2].count(0)
        return _clean(data.decode("utf-16-le" if is_little else "utf-16-be", "ignore")), False
    try:
        # A character that the length limit has cut in two is waited for, and so left out.
        is_whole = len(data) < MAX_BYTES
        return _clean(codecs.getincrementaldecoder("utf-8-sig")().decode(data, final=is_whole)), False
    except UnicodeDecodeError:
        pass
    try:
        return _clean(data.decode("cp1252")), True
    except UnicodeDecodeError:
        return _clean(data.decode("latin-1")), True


def caption_from_name(image: Path) -> str:
    """Return the name of a picture up to the first underscore, without the extension."""
    # Bytes that are no text in this system's encoding arrive as lone surrogates, which nothing can write out.
    name = image.stem.encode("utf-8", "replace").decode("utf-8")
    return _on_one_line(name.partition("_")[0])


def _from_name(image: Path, reason: str) -> Caption:
    text = caption_from_name(image)
    if not text:
        return Caption("", "no caption", f"{reason}, and the file name gives none")
    return Caption(text, "file name", reason)


def _clean(text: str) -> str:
    return text.replace("\0", "").replace("\ufeff", "")


def _on_one_line(text: str) -> str:
    return re.sub(r"\s*[\r\n]+\s*", " ", text.strip())
