"""The picture files below a folder, with the caption file of each."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ed2.data.captions import CAPTION_EXTENSIONS
from ed2.data.example import Finding
from ed2.data.images import EXTENSIONS

UNREAD_EXTENSIONS = frozenset(("heic", "heif", "jxl", "jp2", "tga", "cr2", "cr3", "nef", "arw", "dng", "orf", "rw2"))
"""Pictures that people have and that are not read here: told, since they would be missed."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A file that is named like a picture."""

    path: Path
    root: int
    name: str
    """Relative to the root, with forward slashes; bytes that are no text are spelled out, such as \\\\udce9."""
    stat: os.stat_result
    text_file: Path | None


@dataclass(slots=True)
class Findings:
    """What was met below one root; `num_files` counts every file, of whatever kind."""

    pictures: list[PictureFile] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    num_files: int = 0


def find_pictures(root: Path, number: int, at_folder: Callable[[int], None]) -> Findings:
    """Find the pictures below `root`, sorted by name, leaving out hidden files and folders.

    Links are followed; a folder that was already seen, as in a loop of links, is not entered again.

    Args:
        root: the folder.
        number: its number among the data roots.
        at_folder: called at each folder with the number of pictures so far; may raise to leave.
    """
    return _Walk(root, number, at_folder).findings()


class _Walk:
    def __init__(self, root: Path, number: int, at_folder: Callable[[int], None]) -> None:
        self._root, self._number, self._at_folder = root, number, at_folder
        self._found = Findings()
        self._seen: set[tuple[int, int]] = set()

    def findings(self) -> Findings:
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            self._at_folder(len(self._found.pictures))
            try:
                # reversed: the last of the list is taken next
                waiting += reversed(self._look_into(folder))
            except OSError as error:
                what = f"the folder cannot be opened ({error.strerror or error})"
                self._tell(folder or ".", what, "Check who may read it.")
        self._found.pictures.sort(key=lambda picture: picture.name)
        return self._found

    def _look_into(self, folder: str) -> list[str]:
        """Note the pictures of one folder and return the folders in it, relative to the root."""
        place = self._root / folder
        status = place.stat()
        if (status.st_dev, status.st_ino) in self._seen:
            return []
        self._seen.add((status.st_dev, status.st_ino))
        with os.scandir(place) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        shown = [(entry, _is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
        files = [entry for entry, is_folder in shown if not is_folder]
        self._found.num_files += len(files)
        texts = _text_files(files)
        for entry in files:
            stem, extension = _parted(entry.name)
            name = _below(folder, entry.name)
            if extension in EXTENSIONS:
                self._note_picture(entry, name, texts.get(stem))
            elif extension in UNREAD_EXTENSIONS:
                what = f"it uses the format {extension.upper()}, which is not read here"
                self._tell(name, what, "Save it as PNG, JPEG or WebP.")
        return [_below(folder, entry.name) for entry, is_folder in shown if is_folder]

    def _note_picture(self, entry: os.DirEntry[str], name: str, text_file: str | None) -> None:
        try:
            status = entry.stat()
        except OSError as error:
            what = "it is a link to nothing" if entry.is_symlink() else f"it cannot be read ({error.strerror or error})"
            return self._tell(name, what, "Delete it, or mend it.")
        if not stat.S_ISREG(status.st_mode):
            return self._tell(name, "it is not a file", "Delete or rename it.")
        path = Path(entry.path)
        text_path = path.with_name(text_file) if text_file else None
        self._found.pictures.append(PictureFile(path, self._number, _printable(name), status, text_path))
        return None

    def _tell(self, name: str, what: str, fix: str) -> None:
        self._found.problems.append(Finding(_printable(name), f"{what}.", fix, root=self._number))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _text_files(files: list[os.DirEntry[str]]) -> dict[str, str]:
    """Return the caption file to read for each name without extension; the case of extensions does not matter."""
    ranked: dict[str, tuple[int, str]] = {}
    for entry in files:
        stem, extension = _parted(entry.name)
        if extension in CAPTION_EXTENSIONS:
            rank = (CAPTION_EXTENSIONS.index(extension), entry.name)
            ranked[stem] = min(rank, ranked.get(stem, rank))
    return {stem: name for stem, (_, name) in ranked.items()}


def _parted(name: str) -> tuple[str, str]:
    """Return a file name without its extension, and the extension in lower case without the dot."""
    stem, dot, extension = name.rpartition(".")
    return (stem, extension.lower()) if dot else (name, "")


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
