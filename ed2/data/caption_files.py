"""Which caption file in a folder belongs to which image: by name, whatever its case and Unicode form."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from ed2.data.sidecars import CAPTION_EXTENSIONS, FOLDER_NAMES

UNREAD_TABLES = frozenset(("json", "jsonl", "csv", "tsv", "parquet"))
"""Files that other programs keep captions in."""
_UNREAD_TEXTS = frozenset("text tags cap captions md rtf doc docx odt xml html log".split())
"""Reported only if there is an image of that name."""


class CaptionFiles:
    """The caption files of a folder, and those of its files that may be meant as one but are not read."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        """Sort the names of the files in a folder."""
        self._folder = str(folder)
        self._ranks: dict[str, int] = {}
        self._by_stem: dict[str, list[str]] = {}
        self._by_folded_stem: dict[str, list[str]] = {}
        self._unread: dict[str, str] = {}
        for name in names:
            stem, extension = split_extension(name)
            if extension in CAPTION_EXTENSIONS and name.lower() not in FOLDER_NAMES:
                self._ranks[name] = CAPTION_EXTENSIONS.index(extension)
                self._by_stem.setdefault(stem, []).append(name)
                self._by_folded_stem.setdefault(_folded(stem), []).append(name)
            elif extension in UNREAD_TABLES or extension in _UNREAD_TEXTS:
                self._unread[name] = extension

    def assign(self, images: Iterable[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
        """Return the paths of each image's caption files, the weakest first, and the names of those that have no image.

        A file whose name fits one image exactly does not belong to another that differs in case. `cat.png.txt` belongs
        to `cat.png` alone, and is stronger than `cat.txt`.
        """
        stems = {name: split_extension(name)[0] for name in images}
        exact = {*stems, *stems.values()}
        assigned: dict[str, tuple[str, ...]] = {}
        used: set[str] = set()
        for name, stem in stems.items():
            own = self._fitting(stem, exact)
            full = self._fitting(name, exact)
            files = own
            if full or len(own) > 1:
                ranked = sorted([(self._ranks[file], 0, file) for file in own] + [(self._ranks[f], 1, f) for f in full])
                files = [file for *_, file in dict.fromkeys(ranked)]
            if files:
                assigned[name] = tuple([os.path.join(self._folder, file) for file in files])  # noqa: PTH118
                used.update(files)
        return assigned, [name for name in self._ranks if name not in used]

    def unread(self, images: Iterable[str]) -> list[str]:
        """Return the files that are not read although they look like captions of these images."""
        if not self._unread:
            return []
        stems = {_folded(split_extension(name)[0]) for name in images}
        found = []
        for name, extension in self._unread.items():
            if extension in UNREAD_TABLES or _folded(split_extension(name)[0]) in stems:
                found.append(name)
        return found

    def _fitting(self, stem: str, exact: set[str]) -> list[str]:
        """Return the caption files for a stem: those that have it, and those that have it in another form."""
        found, alike = self._by_stem.get(stem, []), self._by_folded_stem.get(_folded(stem), ())
        if len(alike) == len(found):  # no other form
            return found
        for file in alike:
            own = split_extension(file)[0]
            if own != stem and own not in exact:
                found = [*found, file]
        return found


def caption_files_in(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Return the caption files of each image of a folder that has one, the weakest first. Raises OSError."""
    names = [entry.name for entry in folder.iterdir()]
    images = [name for name in names if split_extension(name)[1] not in CAPTION_EXTENSIONS]
    assigned = CaptionFiles(folder, names).assign(images)[0]
    return {name: tuple(map(Path, files)) for name, files in assigned.items()}


def split_extension(name: str) -> tuple[str, str]:
    """Return a file name without its extension, and the extension in lower case without the dot."""
    stem, dot, extension = name.rpartition(".")
    if not dot:
        return name, ""
    return stem, extension.lower()


def _folded(stem: str) -> str:
    """Return a name in the one form that all its cases and Unicode forms have."""
    if stem.isascii():
        return stem.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", stem).casefold())
