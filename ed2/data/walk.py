"""The image files below a folder, with what its folders say of each, and the files beside it."""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ed2.data.example import Finding
from ed2.data.images import EXTENSIONS
from ed2.data.layers import Layer, merged
from ed2.data.sidecars import FOLDER_NAMES, GLOBAL_NAMES, IMAGE_EXTENSIONS, LOCAL_NAMES, Note, read_folder_file

UNREAD_EXTENSIONS = frozenset(("heic", "heif", "jxl", "jp2", "tga", "cr2", "cr3", "nef", "arw", "dng", "orf", "rw2"))
"""Images that people have and that are not read here: told, since they would be missed."""


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """A file that is named like an image."""

    path: Path
    root: int
    name: str
    """Relative to the root, with forward slashes; bytes that are no text are spelled out, such as \\\\udce9."""
    stat: os.stat_result
    layer: Layer
    """What its folders say, or its entry in a manifest; one object for all images of a folder."""
    sidecars: tuple[Path, ...] = ()
    """The files beside it that bear its name, the weakest first."""
    entry: int = 0
    """Tells the entries of a manifest apart that name the same image."""


@dataclass(slots=True)
class Findings:
    """What was met below one root; `num_files` counts every file, of whatever kind."""

    images: list[ImageEntry] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    num_files: int = 0


def find_images(root: Path, number: int, at_folder: Callable[[int], None]) -> Findings:
    """Find the images below `root`, sorted by name, leaving out hidden files and folders.

    Links are followed; a folder that was already seen, as in a loop of links, is not entered again.

    Args:
        root: the folder.
        number: its number among the data roots.
        at_folder: called at each folder with the number of images so far; may raise to leave.
    """
    return _Walk(root, number, at_folder).findings()


class _Folder(NamedTuple):
    """A folder that is still to be looked into."""

    name: str
    """Relative to the root."""
    inherited: tuple[Layer, ...] = ()
    """What the folders above say for it too, the weakest first."""


class _Walk:
    def __init__(self, root: Path, number: int, at_folder: Callable[[int], None]) -> None:
        self._root, self._number, self._at_folder = root, number, at_folder
        self._found = Findings()
        self._seen: set[tuple[int, int]] = set()

    def findings(self) -> Findings:
        waiting = [_Folder("")]
        while waiting:
            folder = waiting.pop()
            self._at_folder(len(self._found.images))
            try:
                # reversed: the last of the list is taken next
                waiting += reversed(self._look_into(folder))
            except OSError as error:
                what = f"the folder cannot be opened ({error.strerror or error})"
                self._tell(folder.name or ".", what, "Check who may read it.")
        self._found.images.sort(key=lambda image: image.name)
        return self._found

    def _look_into(self, folder: _Folder) -> list[_Folder]:
        """Note the images of one folder and return the folders in it."""
        place = self._root / folder.name
        status = place.stat()
        if (status.st_dev, status.st_ino) in self._seen:
            return []
        self._seen.add((status.st_dev, status.st_ino))
        with os.scandir(place) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        shown = [(entry, _is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
        files = [entry for entry, is_folder in shown if not is_folder]
        self._found.num_files += len(files)
        named = [entry for entry, _ in shown]  # a folder where a caption should be is told when that is read
        inherited = (*folder.inherited, *self._layers(folder.name, named, GLOBAL_NAMES))
        layer = merged([*inherited, *self._layers(folder.name, named, LOCAL_NAMES)])
        self._note_files(folder.name, files, layer, _sidecars(named))
        return [_Folder(_below(folder.name, entry.name), inherited) for entry, is_folder in shown if is_folder]

    def _layers(self, folder: str, named: Sequence[os.DirEntry[str]], names: Sequence[str]) -> list[Layer]:
        """Read what bears one of the names, in the order of the names."""
        layers = []
        for entry in sorted((e for e in named if e.name.lower() in names), key=lambda e: names.index(e.name.lower())):
            read = read_folder_file(Path(entry.path))
            layers.append(read.layer)
            name = _below(folder, entry.name)
            self._found.notes += [side_car_finding(name, note, self._number) for note in read.notes]
        return layers

    def _note_files(
        self,
        folder: str,
        files: Sequence[os.DirEntry[str]],
        layer: Layer,
        sidecars: Mapping[str, tuple[Path, ...]],
    ) -> None:
        for entry in files:
            stem, extension = _parted(entry.name)
            name = _below(folder, entry.name)
            if extension in EXTENSIONS:
                self._note_image(entry, name, layer, sidecars.get(stem, ()))
            elif extension in UNREAD_EXTENSIONS:
                what = f"it uses the format {extension.upper()}, which is not read here"
                self._tell(name, what, "Save it as PNG, JPEG or WebP.")

    def _note_image(self, entry: os.DirEntry[str], name: str, layer: Layer, sidecars: tuple[Path, ...]) -> None:
        try:
            status = entry.stat()
        except OSError as error:
            what = "it is a link to nothing" if entry.is_symlink() else f"it cannot be read ({error.strerror or error})"
            return self._tell(name, what, "Delete it, or mend it.")
        if not stat.S_ISREG(status.st_mode):
            return self._tell(name, "it is not a file", "Delete or rename it.")
        image = ImageEntry(Path(entry.path), self._number, printable(name), status, layer, sidecars)
        self._found.images.append(image)
        return None

    def _tell(self, name: str, what: str, fix: str) -> None:
        self._found.problems.append(Finding(printable(name), f"{what}.", fix, root=self._number))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _sidecars(files: Sequence[os.DirEntry[str]]) -> dict[str, tuple[Path, ...]]:
    """Return the side-car files for each name without extension; the case of extensions does not matter."""
    ranked: dict[str, list[tuple[int, str, Path]]] = {}
    for entry in files:
        stem, extension = _parted(entry.name)
        if extension in IMAGE_EXTENSIONS and entry.name.lower() not in FOLDER_NAMES:
            rank = IMAGE_EXTENSIONS.index(extension)
            ranked.setdefault(stem, []).append((rank, entry.name, Path(entry.path)))
    return {stem: tuple(path for *_, path in sorted(found)) for stem, found in ranked.items()}


def side_car_finding(name: str, note: Note, root: int) -> Finding:
    """Return what is to be told of a file that says how images are trained."""
    fixes = {"side-car": "What it says there is not used.", "guessed": "Save it as UTF-8 if it reads wrong."}
    return Finding(printable(name), f"{note.what}.", fixes.get(note.kind, ""), kind=note.kind, root=root)


def _parted(name: str) -> tuple[str, str]:
    """Return a file name without its extension, and the extension in lower case without the dot."""
    stem, dot, extension = name.rpartition(".")
    return (stem, extension.lower()) if dot else (name, "")


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def printable(name: str) -> str:
    """Return a file name with bytes that are no text spelled out."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
