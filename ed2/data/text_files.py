"""The text of small files in any encoding, and the caption that an image's file name gives."""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ed2.small_files import read_beginning

MAX_BYTES = 64 * 1024
"""Longer than any caption."""

Encoding = Literal["UTF-8", "UTF-16", "Western European (cp1252)", "Latin-1"]

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]")
"""A terminal would act on some of them."""
_LINE_ENDS = re.compile(r"\s*[\r\n]+\s*")


@dataclass(frozen=True, slots=True)
class TextFile:
    """The text of a file, and anything worth reporting about how it was read."""

    text: str
    note: Literal["guessed", "cut"] | None = None
    detail: str = ""
    """Part of a sentence; also says why there is no text if the file cannot be read."""


def read_text(path: Path | str, *, keep_lines: bool = False) -> TextFile:
    """Return the text of a small file, on one line unless `keep_lines`; empty if it cannot be read."""
    try:
        data = read_beginning(path, MAX_BYTES + 1)
    except OSError as error:
        return TextFile("", detail=f"it cannot be read ({error.strerror or error})")
    text, encoding = decode_text(data[:MAX_BYTES])
    if not keep_lines or not text.strip():
        text = _on_one_line(text)
    is_guessed = bool(text) and encoding != "UTF-8"
    if len(data) > MAX_BYTES:
        guessed = f", as {encoding}" if is_guessed else ""
        return TextFile(text, "cut", f"only the first {MAX_BYTES // 1024} KB of {Path(path).name} were read{guessed}")
    if is_guessed:
        return TextFile(text, "guessed", f"{Path(path).name} is not UTF-8 and was read as {encoding}")
    return TextFile(text)


def decode_text(data: bytes) -> tuple[str, Encoding]:
    """Return the text in `data` without NULs, and its probable encoding. Never fails.

    Tried in this order: a byte order mark; UTF-16 if at least 30 % of an even number of bytes are NUL; UTF-8; cp1252;
    Latin-1.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return remove_unprintable(data.decode("utf-16", "ignore")), "UTF-16"
    if data and len(data) % 2 == 0 and data.count(0) >= 0.3 * len(data):
        is_little = data[1::2].count(0) >= data[0::2].count(0)
        return remove_unprintable(data.decode("utf-16-le" if is_little else "utf-16-be", "ignore")), "UTF-16"
    try:
        if len(data) < MAX_BYTES:
            return remove_unprintable(data.decode("utf-8-sig")), "UTF-8"
        # The size limit may cut a character in two; an unfinished one is left out.
        return remove_unprintable(codecs.getincrementaldecoder("utf-8-sig")().decode(data)), "UTF-8"
    except UnicodeDecodeError:
        pass
    try:
        return remove_unprintable(data.decode("cp1252")), "Western European (cp1252)"
    except UnicodeDecodeError:
        return remove_unprintable(data.decode("latin-1")), "Latin-1"


def caption_from_name(image: Path | str) -> str:
    """Return the file name of an image up to the first underscore, without the extension."""
    # Bytes that are not text in this system's encoding arrive as lone surrogates, which cannot be written out.
    return _on_one_line(remove_unprintable(Path(image).stem).partition("_")[0])


def remove_unprintable(text: str) -> str:
    """Return a text without control characters and byte order marks, and with lone surrogates replaced."""
    if text.isprintable():  # as nearly all captions are, and quick to tell
        return text
    text = _CONTROLS.sub("", text)
    return text.encode("utf-8", "replace").decode("utf-8")


def _on_one_line(text: str) -> str:
    text = text.strip()
    return _LINE_ENDS.sub(" ", text) if "\n" in text or "\r" in text else text
