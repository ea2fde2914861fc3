"""The image files below a folder, with the config of their folders and the caption files beside them."""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ed2.data.caption_files import CaptionFiles, split_extension
from ed2.data.example import Finding, FindingKind
from ed2.data.file_kinds import (
    CONVERT,
    EXTENSIONS,
    HEAD_BYTES,
    may_be_image,
    starts_like_image,
    unsupported_format,
    why_unsupported,
)
from ed2.data.image_config import ImageConfig, merge_configs
from ed2.data.sidecars import GLOBAL_NAMES, LOCAL_NAMES, SidecarNote, read_folder_file
from ed2.disk_errors import wait_for_handles
from ed2.small_files import read_beginning
from ed2.text import visible_line

NOTE_FIXES: Mapping[FindingKind, str] = {
    "system": "It was left out.",
    "orphan": "It is not used. Give it the name of its image.",
    "link": "It is used. Delete the link if you do not want that.",
    "unread": "It is not used. Write captions to .txt files, or list the images in a manifest.",
}

SYSTEM_FOLDERS = frozenset(
    (
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "@sharebin",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "recycled",
        "system volume information",
        "found.000",
        "__macosx",
        "network trash folder",
        "temporary items",
        "lost+found",
        "lost.dir",
    )
)
"""Folders, in lower case, in which a NAS, Windows, macOS and archives keep thumbnails and deleted files."""


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """A file with the name of an image."""

    path: str
    root: int
    name: str
    """Relative to the root, with forward slashes; undecodable bytes are escaped, such as \\\\udce9."""
    stat: os.stat_result
    config: ImageConfig
    """From its folders or its entry in a manifest; all images of a folder share one object."""
    sidecars: tuple[str, ...] = ()
    """The caption files beside it, from lowest to highest priority."""
    entry: int = 0
    """Distinguishes manifest entries for the same image."""


@dataclass(slots=True)
class RootContents:
    """What was found below one data root; `num_files` counts files of every kind."""

    images: list[ImageEntry] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    num_files: int = 0


def find_images(root: Path, number: int, on_folder: Callable[[int], None], *, follow_links: bool) -> RootContents:
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
    """From the folders above, from lowest to highest priority."""


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
        entries = [entry for entry in wait_for_handles(lambda: _listed(path)) if not entry.name.startswith(".")]
        entries.sort(key=lambda entry: entry.name)
        # Sidecars are looked up among all entries: a folder with the name of one is reported when it is read.
        inherited = (*folder.inherited, *self._configs(folder.name, entries, GLOBAL_NAMES))
        config = merge_configs([*inherited, *self._configs(folder.name, entries, LOCAL_NAMES)])
        captions = CaptionFiles(path, [entry.name for entry in entries])
        folders = []
        images = []
        for entry in entries:
            name = _join(folder.name, entry.name)
            if not _is_folder(entry):
                self.found.num_files += 1
                if self._is_image(entry, name):
                    images.append(entry)
            elif self._is_searched(entry, name):
                folders.append(_Folder(name, inherited))
        self._add_images(folder.name, images, config, captions)
        return folders

    def _is_searched(self, entry: os.DirEntry[str], name: str) -> bool:
        """Tell whether a folder is searched; one that is not is reported."""
        if entry.name.lower() in SYSTEM_FOLDERS:
            what = "it is a system folder for thumbnails or deleted files"
            self._note(name, "system", what)
            return False
        return not self._leads_out(entry, name)

    def _leads_out(self, entry: os.DirEntry[str], name: str) -> bool:
        """Whether a folder is a link to somewhere else that must not be followed, which is reported."""
        if self._follow_links:
            return False
        target = self._target_outside(entry)
        if target is None:
            return False
        what = f"it is a link to {visible_line(target)}, outside the image folders, and is not searched"
        self.report(name, what, "To search it, turn on follow_links, or add that folder.")
        return True

    def _target_outside(self, entry: os.DirEntry[str]) -> str | None:
        """Where a link leads, if that is outside the root; None otherwise."""
        if not entry.is_symlink():
            return None
        target = os.path.realpath(entry.path)
        if Path(target).is_relative_to(self._real_root):
            return None
        return target

    def _add_images(
        self, folder: str, images: Sequence[os.DirEntry[str]], config: ImageConfig, captions: CaptionFiles
    ) -> None:
        names = [entry.name for entry in images]
        assigned, orphans = captions.assign(names)
        for entry in images:
            self._add_file(entry, _join(folder, entry.name), config, assigned.get(entry.name, ()))
        for name in orphans:
            self._note(_join(folder, name), "orphan", "there is no image with its name")
        for name in captions.unread(names):
            self._note(_join(folder, name), "unread", "captions are not read from files of this kind")

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

    def _is_image(self, entry: os.DirEntry[str], name: str) -> bool:
        """Tell whether a file is taken for an image; reports one that cannot be used."""
        extension = split_extension(entry.name)[1]
        if extension in EXTENSIONS:
            return True
        fault = why_unsupported(extension)
        if fault is None and may_be_image(extension) and _is_file(entry):
            try:
                head = read_beginning(entry.path, HEAD_BYTES)
            except OSError:
                return False
            if starts_like_image(head):
                return True
            other = unsupported_format(head)
            if other:
                fault = (f"the {other} format is not supported", CONVERT)
        if fault:
            self.report(name, *fault)
        return False

    def _add_file(self, entry: os.DirEntry[str], name: str, config: ImageConfig, sidecars: tuple[str, ...]) -> None:
        try:
            status = entry.stat()
        except OSError as error:
            what = "it is a broken link" if entry.is_symlink() else f"it cannot be read ({error.strerror or error})"
            self.report(name, what, "Delete or repair it.")
            return
        if not stat.S_ISREG(status.st_mode):
            self.report(name, "it is not a file", "Delete or rename it.")
            return
        if target := self._target_outside(entry):
            self._note(name, "link", f"it is a link to {visible_line(target)}, outside the image folders")
        image = ImageEntry(entry.path, self._number, escape_undecodable(name), status, config, sidecars)
        self.found.images.append(image)

    def _note(self, name: str, kind: FindingKind, what: str) -> None:
        """Add a note about a file or folder that is left out."""
        fix = NOTE_FIXES[kind]
        self.found.notes.append(Finding(escape_undecodable(name), f"{what}.", fix, kind=kind, root=self._number))

    def report(self, name: str, what: str, fix: str) -> None:
        """Add a problem with a file or folder."""
        self.found.problems.append(Finding(escape_undecodable(name), f"{what}.", fix, root=self._number))


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as listing:
        return list(listing)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def sidecar_finding(name: str, note: SidecarNote, root: int) -> Finding:
    """Return a note about a sidecar as a finding."""
    fixes = {"sidecar": "Ignored until it is fixed.", "guessed": "If the text looks wrong, save it as UTF-8."}
    return Finding(escape_undecodable(name), f"{note.what}.", fixes.get(note.kind, ""), kind=note.kind, root=root)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def escape_undecodable(name: str) -> str:
    """Return a file name with undecodable bytes escaped."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")
