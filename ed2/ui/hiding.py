"""Removes folder names from the texts of the monitor page.

Where a path ends in a sentence is never certain, since names may contain spaces. So known folders are removed by their
names; of what is left, one path is cut where there can be no doubt; and a text that leaves a doubt is not shown at all.
"""

import re
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from ed2.settings.files import PROGRAM_DIR

NOT_SHOWN = "Details are on the owner's page."
UNNAMED = "…"
"""Replaces a folder whose name must not be shown, such as a user's name."""
_SEPARATOR = re.compile(r"[\\/]")
_HARMLESS = re.compile(
    r"(?<![^\s(])(?:[\d.,]+/[\d.,]+(?=[\s)]|$)|images/s\b|"
    r"(?:loss|hyperparameter|optimizer|performance)/[a-z_ -]+(?= -?[\d.]))"
)
"""Fractions, speeds, and curve names before their numbers."""
_BEFORE = r"(?<![^\s'\"`(\[<=:|])"
_START = re.compile(_BEFORE + r"(?:[A-Za-z]:|~\w*|\.{1,2})?[\\/]")
"""Where a path can begin."""
_INSIDE = r"(?:[\\/]+[^\\/\s:;,'\"<>()]+)*[\\/]?"
"""What may follow a folder's name: names of what is in it, up to the first blank."""
_STAMP = re.compile(r"\d\d:\d\d:\d\d ")

Hide = Callable[[str], str]
"""Removes paths from a text."""


def hiding(folders: Callable[[], Iterable[Path | str]]) -> Hide:
    """A function that removes paths from texts; `folders` gives those that may be in them."""
    return lambda text: without_paths(text, folders())


def without_paths(text: str, folders: Iterable[Path | str] = ()) -> str:
    """The text with only the last name of each path, or a sentence in its place if it might still contain one.

    Args:
        text: one line of the log, or one message.
        folders: folders and files that it may name, besides the program's own.
    """
    if _is_clean(text):
        return text
    for place in _own_places():
        text = _pattern(place, inside="(?![\\\\/])").sub(UNNAMED, text)
    cut = _cut(text)
    if cut is None:
        for known in sorted({str(folder) for folder in folders if folder}, key=len, reverse=True):
            text = _pattern(known, inside=_INSIDE).sub(_last, text)
        cut = _cut(text)
    if cut is not None:
        return cut
    if stamp := _STAMP.match(text):
        return f"{stamp[0]}{NOT_SHOWN}"
    return NOT_SHOWN


def _cut(text: str) -> str | None:
    """The text without what is between the start of its path and its last name; None where that is uncertain."""
    starts = list(_START.finditer(text))
    if _is_clean(text):
        return text
    if len(starts) != 1 or _SEPARATOR.search(text, 0, starts[0].start()):
        return None
    return text[: starts[0].start()] + text[max(text.rfind("/"), text.rfind("\\")) + 1 :]


def _is_clean(text: str) -> bool:
    return not _SEPARATOR.search(_HARMLESS.sub("", text))


def _own_places() -> frozenset[str]:
    return frozenset(str(folder) for folder in (PROGRAM_DIR, Path.home(), Path.cwd(), Path(tempfile.gettempdir())))


@lru_cache(maxsize=256)
def _pattern(known: str, *, inside: str) -> re.Pattern[str]:
    """Finds a folder however its separators are written; one without any is a plain word, and is never found."""
    parts = [re.escape(part) for part in _SEPARATOR.split(known.rstrip("\\/"))]
    if len(parts) < 2:
        return re.compile("(?!)")
    folder = r"[\\/]+".join(parts)
    return re.compile(rf"{_BEFORE}{folder}(?![\w-]){inside}", re.IGNORECASE)


def _last(found: re.Match[str]) -> str:
    return _SEPARATOR.split(found[0].rstrip("\\/"))[-1]
