"""What strangers may read: the texts of the monitor page, in which no folder of this computer is named.

Where a path ends in a sentence cannot be known for certain, since names may hold blanks. So the folders that are known
are taken out by their names; of what is left one path is cut where there can be no doubt; and a text of which it is not
certain is not shown at all.
"""

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from ed2.settings.fields import fields
from ed2.settings.files import PROGRAM_DIR

NOT_SHOWN = "Details are on the owner's page."
UNNAMED = "…"
"""Stands for a folder whose own name is told to nobody, such as that of a person."""
_SEPARATOR = re.compile(r"[\\/]")
_HARMLESS = re.compile(
    r"(?<![^\s(])(?:[\d.,]+/[\d.,]+(?=[\s)]|$)|(?:images|images)/s\b|"
    r"(?:loss|hyperparameter|optimizer|performance)/[a-z_ -]+(?= -?[\d.]))"
)
"""Fractions, speeds, and tags of curves before their numbers."""
_BEFORE = r"(?<![^\s'\"`(\[<=:|])"
_START = re.compile(_BEFORE + r"(?:[A-Za-z]:|~\w*|\.{1,2})?[\\/]")
"""Where a path can begin."""
_INSIDE = r"(?:[\\/]+[^\\/\s:;,'\"<>()]+)*[\\/]?"
"""What may follow a folder's name: the names of what lies in it, as far as they have no blanks."""
_STAMP = re.compile(r"\d\d:\d\d:\d\d ")

Hide = Callable[[str], str]
"""Makes a text fit for strangers."""


def hiding(folders: Callable[[], Iterable[Path | str]]) -> Hide:
    """Texts without paths, where `folders` names those that texts may hold."""
    return lambda text: without_paths(text, folders())


def paths_of(values: Mapping[str, object]) -> list[Path]:
    """The paths among flat settings, in full."""
    found: list[Path] = []
    for name, value in values.items():
        if name in fields() and fields()[name].is_path:
            texts = value if isinstance(value, list | tuple) else [value]
            found += [PROGRAM_DIR / text for text in texts if isinstance(text, str) and text]
    return found


def without_paths(text: str, folders: Iterable[Path | str] = ()) -> str:
    """The text with only the last name of each path, or a sentence in its place where one might be told.

    Args:
        text: one line of the log, or one message.
        folders: folders and files that it may name, beside the program's own.
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
    stamp = _STAMP.match(text)
    return (stamp[0] if stamp else "") + NOT_SHOWN if cut is None else cut


def _cut(text: str) -> str | None:
    """The text without all that stands between where its path begins and its last name; None where that is not sure."""
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
    """Finds a folder however its separators are written; one without any is a plain word, and never found."""
    parts = [re.escape(part) for part in _SEPARATOR.split(known.rstrip("\\/"))]
    if len(parts) < 2:
        return re.compile("(?!)")
    folder = r"[\\/]+".join(parts)
    return re.compile(rf"{_BEFORE}{folder}(?![\w-]){inside}", re.IGNORECASE)


def _last(found: re.Match[str]) -> str:
    return _SEPARATOR.split(found[0].rstrip("\\/"))[-1]
