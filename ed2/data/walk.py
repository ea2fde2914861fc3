"""The image files below a folder, with the config of their folders and the caption files beside them."""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ed2.data.example import Finding
from ed2.data.image_config import ImageConfig, merge_configs
from ed2.data.images import EXTENSIONS
from ed2.data.sidecars import (
    CAPTION_EXTENSIONS,
    FOLDER_NAMES,
    GLOBAL_NAMES,
    LOCAL_NAMES,
    SidecarNote,
    read_folder_file,
)
from ed2.text import visible_line

UNSUPPORTED_EXTENSIONS = frozenset(
    ("heic", "heif", "jxl", "jp2", "tga", "cr2", "cr3", "nef", "arw", "dng", "orf", "rw2")
)
"""Image formats that people have but that cannot be read here: reported, so that nobody misses them later."""


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """A file with the name of an image."""

    path: Path
    root: int
    name: str
    """Relative to the root, with forward slashes; undecodable bytes are escaped, such as \\\\udce9."""
    stat: os.stat_result
    config: ImageConfig
    """From its folders or its entry in a manifest; all images of a folder share one object."""
    sidecars: tuple[Path, ...] = ()
    """The caption files beside it, the weakest first."""
    entry: int = 0
    """Tells the manifest entries for the same image apart."""


@dataclass(slots=True)
class RootContents:
    """What was found below one data root; `num_files` counts files of every kind."""

    images: list[ImageEntry] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    num_files: int = 0


def find_images(
    root: Path, number: int, on_folder: Callable[[int], None], *, follow_links: bool = False
) -> RootContents:
    """Find the images below `root`, sorted by name, without hidden files and folders.

    Links to files are followed, and links to folders below `root`. A folder that has been seen before, as in a loop of
    links, is skipped.

    Args:
        root: the folder.
        number: its index among the data roots.
        on_folder: called for each folder with the number of images so far; may raise to stop.
        follow_links: follow links to folders elsewhere too, which may lead to all files of the computer.
    """
    walk = _Walk(root, number, follow_links)
    waiting = [_Folder("")]
    while waiting:
        folder = waiting.pop()
        on_folder(len(walk.found.images))
        try:
            # Reversed, since the last of the list is next.
            waiting += reversed(walk.read_folder(folder))
        except OSError as error:
            what = f"the folder cannot be opened ({error.strerror or error})"
            walk.report(folder.name or ".", what, "Check its permissions.")
    walk.found.images.sort(key=lambda image: image.name)
    return walk.found


class _Folder(NamedTuple):
    """A folder that is still to be read."""

    name: str
    """Relative to the root."""
    inherited: tuple[ImageConfig, ...] = ()
    """From the folders above, the weakest first."""


class _Walk:
    def __init__(self, root: Path, number: int, follow_links: bool) -> None:
        self._follow_links = follow_links
        self._real_root = os.path.realpath(root)
        self.found = RootContents()
        self._root, self._number = root, number
        self._seen: set[tuple[int, int]] = set()

    def read_folder(self, folder: _Folder) -> list[_Folder]:
        """Collect the images of one folder and return the folders in it."""
        path = self._root / folder.name
        status = path.stat()
        if (status.st_dev, status.st_ino) in self._seen:
            return []
        self._seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as listing:
            entries = [entry for entry in listing if not entry.name.startswith(".")]
        entries.sort(key=lambda entry: entry.name)
        # Sidecars are looked up among all entries: a folder with the name of one is reported when it is read.
        inherited = (*folder.inherited, *self._configs(folder.name, entries, GLOBAL_NAMES))
        config = merge_configs([*inherited, *self._configs(folder.name, entries, LOCAL_NAMES)])
        sidecars = _caption_files(entries)
        folders = []
        for entry in entries:
            name = _join(folder.name, entry.name)
            if _is_folder(entry):
                if not self._leads_out(entry, name):
                    folders.append(_Folder(name, inherited))
            else:
                self.found.num_files += 1
                self._add_file(entry, name, config, sidecars)
        return folders

    def _leads_out(self, entry: os.DirEntry[str], name: str) -> bool:
        """Whether a folder is a link to somewhere else that must not be followed, which is reported."""
        if self._follow_links or not entry.is_symlink():
            return False
        target = os.path.realpath(entry.path)
        if Path(target).is_relative_to(self._real_root):
            return False
        what = f"it is a link to {visible_line(target)}, outside the image folders, and is not searched"
        self.report(name, what, "To search it, turn on follow_links, or add that folder.")
        return True

    def _configs(self, folder: str, entries: Sequence[os.DirEntry[str]], names: Sequence[str]) -> list[ImageConfig]:
        """Read the entries that have one of the names, in the order of the names."""
        configs = []
        named = [entry for entry in entries if entry.name.lower() in names]
        for entry in sorted(named, key=lambda entry: names.index(entry.name.lower())):
            config, notes = read_folder_file(Path(entry.path))
            configs.append(config)
            for note in notes:
                self.found.notes.append(sidecar_finding(_join(folder, entry.name), note, self._number))
        return configs

    def _add_file(
        self, entry: os.DirEntry[str], name: str, config: ImageConfig, sidecars: Mapping[str, tuple[Path, ...]]
    ) -> None:
        stem, extension = _split_extension(entry.name)
        if extension in UNSUPPORTED_EXTENSIONS:
            self.report(name, f"the {extension.upper()} format is not supported", "Save it as PNG, JPEG or WebP.")
        if extension not in EXTENSIONS:
            return
        try:
            status = entry.stat()
        except OSError as error:
            what = "it is a broken link" if entry.is_symlink() else f"it cannot be read ({error.strerror or error})"
            self.report(name, what, "Delete or repair it.")
            return
        if not stat.S_ISREG(status.st_mode):
            self.report(name, "it is not a file", "Delete or rename it.")
            return
        image = ImageEntry(
            Path(entry.path), self._number, escape_undecodable(name), status, config, sidecars.get(stem, ())
        )
        self.found.images.append(image)

    def report(self, name: str, what: str, fix: str) -> None:
        """Add a problem with a file or folder."""
        self.found.problems.append(Finding(escape_undecodable(name), f"{what}.", fix, root=self._number))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def _caption_files(entries: Sequence[os.DirEntry[str]]) -> dict[str, tuple[Path, ...]]:
    """Return the caption files for each name without extension; the case of extensions does not matter."""
    ranked: dict[str, list[tuple[int, str, Path]]] = {}
    for entry in entries:
        stem, extension = _split_extension(entry.name)
        if extension in CAPTION_EXTENSIONS and entry.name.lower() not in FOLDER_NAMES:
            rank = CAPTION_EXTENSIONS.index(extension)
            ranked.setdefault(stem, []).append((rank, entry.name, Path(entry.path)))
    return {stem: tuple(path for *_, path in sorted(found)) for stem, found in ranked.items()}


def sidecar_finding(name: str, note: SidecarNote, root: int) -> Finding:
    """Return a note about a sidecar as a finding."""
    fixes = {"sidecar": "Ignored until it is fixed.", "guessed": "If the text looks wrong, save it as UTF-8."}
    return Finding(escape_undecodable(name), f"{note.what}.", fixes.get(note.kind, ""), kind=note.kind, root=root)


def _split_extension(name: str) -> tuple[str, str]:
    """Return a file name without its extension, and the extension in lower case without the dot."""
    stem, dot, extension = name.rpartition(".")
    return (stem, extension.lower()) if dot else (name, "")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def escape_undecodable(name: str) -> str:
    """Return a file name with undecodable bytes escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
