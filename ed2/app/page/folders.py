"""Which folders the page may open, where a folder browser begins, and what is in a folder."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from ed2.app.reporters.jsonl import EVENTS_NAME
from ed2.app.runs.records import checkpoints_of
from ed2.data.images import EXTENSIONS
from ed2.errors import Problem, SettingsError
from ed2.models.files.base_faults import is_file
from ed2.models.files.folder_faults import INDEX
from ed2.settings.fields import fields
from ed2.settings.files import NAMED_FOLDERS, PROGRAM_DIR

MAX_SHOWN = 500
MOUNTED_BELOW = ("/media/", "/run/media/", "/mnt/", "/Volumes/")
"""Where Linux and macOS put other drives."""


@dataclass(frozen=True)
class Roots:
    """Folders that may be opened with all that is in them; None allows any, for the owner at the computer itself."""

    folders: tuple[Path, ...] | None = None

    def allow(self, path: Path) -> bool:
        """Whether `path`, with links followed, lies in an allowed folder; never one that no disk can hold."""
        if not _can_exist(path):
            return False
        if self.folders is None:
            return True
        real = path.resolve()
        return any(real.is_relative_to(folder.resolve()) for folder in self.folders)

    def require(self, values: Mapping[str, object]) -> None:
        """Check every path among flat settings.

        Raises:
            SettingsError: names each setting whose path is outside.
        """
        problems = []
        for name, value in values.items():
            spec = fields().get(name)
            if spec is None or not spec.is_path:
                continue
            texts = [str(text) for text in (value if isinstance(value, list | tuple) else [value]) if text]
            if name == NAMED_FOLDERS:
                texts = [text.partition("=")[2] or text for text in texts]
            if not all(_can_exist(PROGRAM_DIR / text) for text in texts):
                problems.append(Problem(name, "no path is so long or has such characters.", "Choose another."))
            elif not all(self.allow(PROGRAM_DIR / text) for text in texts):
                problems.append(Problem(name, "this folder may not be opened from here.", self._how_else()))
        if problems:
            raise SettingsError("Not allowed:", problems)

    def _how_else(self) -> str:
        """What a person can do who needs another folder; most have never seen a command line."""
        others = ", ".join(str(folder) for folder in dict.fromkeys(self.folders or ()))
        return (
            f"The page was started so that it opens only these, and all in them: {others}. Copy what you need into one "
            "of them; or end the program and start it by a double-click: on its own computer it opens every folder."
        )


def _can_exist(path: Path) -> bool:
    """Whether the system takes this for a path at all: pathlib raises at each question about one that it does not."""
    try:
        path.lstat()
    except ValueError:  # a null character
        return False
    except OSError as error:
        return error.errno not in (errno.ENAMETOOLONG, errno.EINVAL)
    return True


@dataclass(frozen=True)
class Place:
    """A folder to begin with."""

    name: str
    folder: Path


@dataclass(frozen=True)
class Contents:
    """What lies in a folder, hidden things left out; names count from it."""

    folders: tuple[str, ...] = ()
    num_images: int = 0


def places(roots: Roots) -> list[Place]:
    """Where a browser can begin: the allowed folders, or all drives of the computer."""
    if roots.folders is not None:
        return [Place(_name_of(folder), folder) for folder in dict.fromkeys(roots.folders)]
    others = drives(partition.mountpoint for partition in psutil.disk_partitions())
    return [Place("Home", Path.home()), Place(_name_of(PROGRAM_DIR), PROGRAM_DIR), *others]


def drives(mounts: Iterable[str]) -> list[Place]:
    """Those places of a computer that a person calls a drive."""
    is_windows = sys.platform == "win32"
    found = sorted(mount for mount in mounts if _is_text(mount) and (is_windows or mount.startswith(MOUNTED_BELOW)))
    return [Place(f"Drive {mount if is_windows else Path(mount).name}", Path(mount)) for mount in found]


def contents(folder: Path) -> Contents:
    """The folders and the number of images in a folder. Raises OSError."""
    folders, num_images = [], 0
    for entry in _visible(folder):
        if entry.is_dir():
            folders.append(entry.name)
        else:
            num_images += entry.name.rpartition(".")[2].lower() in EXTENSIONS
    return Contents(tuple(sorted(folders)[:MAX_SHOWN]), num_images)


def models(folder: Path) -> list[Path]:
    """What may be a base model in a folder: single files, diffusers folders, and the checkpoints of runs in it.

    Raises:
        OSError: it cannot be opened.
    """
    found, runs = [], []
    for entry in _visible(folder):
        path = Path(entry.path)
        if is_model(path):
            found.append(path)
        elif is_file(path / EVENTS_NAME):
            runs.append((entry.stat().st_mtime, path))
    saved = [checkpoint for _, run in sorted(runs, reverse=True) for checkpoint in reversed(checkpoints_of(run))]
    return [*saved, *sorted(found)][:MAX_SHOWN]


def is_model(path: Path) -> bool:
    """Whether this looks like a base model: what it is in truth is seen when it is taken."""
    return is_file(path / INDEX) or (path.suffix.lower() == ".safetensors" and is_file(path))


def is_folder(path: Path) -> bool:
    """Whether this is a folder that can be seen; below one of another user it cannot."""
    return os.path.isdir(path)  # noqa: PTH112 -- Path.is_dir raises for lost+found of any drive


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is not hidden; what vanishes meanwhile, leads nowhere, or has a name that is no text is passed over."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.name[:1] != "." and _is_text(entry.name) and entry.stat():
                    yield entry


def _is_text(name: str) -> bool:
    """Whether a page can show a name: an old archive or another system may have left bytes that no browser is sent."""
    with contextlib.suppress(UnicodeEncodeError):
        return bool(name.encode())
    return False


def _name_of(folder: Path) -> str:
    return "This program's folder" if folder == PROGRAM_DIR else folder.name or str(folder)
