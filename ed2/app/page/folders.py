"""Which folders the page may open, where a folder browser starts, what is in a folder, and showing one."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from ed2.app.reporters.jsonl import EVENTS_NAME
from ed2.checkpoint.identity import checkpoints_of
from ed2.data.file_kinds import EXTENSIONS
from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error, Problem, SettingsError
from ed2.models.files.folder_problems import INDEX
from ed2.settings.fields import fields
from ed2.settings.files import NAMED_FOLDERS, PROGRAM_DIR
from ed2.small_files import is_file

MAX_SHOWN = 500
MAX_WALKED = 20_000
"""Files and folders of a tree that are looked at to count its images."""
MOUNTED_BELOW = ("/media/", "/run/media/", "/mnt/", "/Volumes/")
"""Where Linux and macOS mount other drives."""
OPENERS = {"darwin": "open", "linux": "xdg-open"}


@dataclass(frozen=True)
class Roots:
    """Folders that may be opened, including everything in them; None allows any, for the owner at this computer."""

    folders: tuple[Path, ...] | None = None

    def allow(self, path: Path) -> bool:
        """Whether `path`, with links followed, is in an allowed folder, and is a valid path."""
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
        for name, paths in paths_of(values).items():
            if not all(map(_can_exist, paths)):
                problems.append(Problem(name, "this path is too long or has invalid characters.", "Choose another."))
            elif not all(map(self.allow, paths)):
                problems.append(Problem(name, "this folder cannot be opened from here.", self._other_folder_advice()))
        if problems:
            raise SettingsError("Not allowed:", problems)

    def _other_folder_advice(self) -> str:
        """How to use another folder, without a command line, which most people have never seen."""
        others = ", ".join(str(folder) for folder in dict.fromkeys(self.folders or ()))
        return (
            f"The page was started with access to these folders only: {others}. Copy what you need into one of them, "
            "or exit the program and start it with a double-click: started on this computer, it opens every folder."
        )


def paths_of(values: Mapping[str, object]) -> dict[str, list[Path]]:
    """The paths among flat settings, in full, by the name of their setting."""
    found: dict[str, list[Path]] = {}
    for name, value in values.items():
        spec = fields().get(name)
        if spec is None or not spec.is_path:
            continue
        items = value if isinstance(value, list | tuple) else [value]
        texts = [str(item) for item in items if item]
        if name == NAMED_FOLDERS:
            texts = [text.partition("=")[2] or text for text in texts]
        found[name] = [PROGRAM_DIR / text for text in texts]
    return found


def _can_exist(path: Path) -> bool:
    """Whether the system accepts this as a path; pathlib raises for one that it does not."""
    try:
        path.lstat()
    except ValueError:  # a null character
        return False
    except OSError as error:
        return error.errno not in (errno.ENAMETOOLONG, errno.EINVAL)
    return True


@dataclass(frozen=True)
class Place:
    """A folder to start from."""

    name: str
    folder: Path


@dataclass(frozen=True)
class Contents:
    """What is in a folder, except hidden things; folders by name."""

    folders: tuple[str, ...] = ()
    num_images: int = 0


def places(roots: Roots) -> list[Place]:
    """Where a folder browser can start: the allowed folders, or all drives of the computer."""
    if roots.folders is not None:
        return [Place(_name_of(folder), folder) for folder in dict.fromkeys(roots.folders)]
    others = drives(partition.mountpoint for partition in psutil.disk_partitions())
    return [Place("Home", Path.home()), Place(_name_of(PROGRAM_DIR), PROGRAM_DIR), *others]


def drives(mounts: Iterable[str]) -> list[Place]:
    """The mounted places that a person calls a drive."""
    shown = sorted(filter(_is_text, mounts))
    if sys.platform == "win32":
        return [Place(f"Drive {mount}", Path(mount)) for mount in shown]
    return [Place(f"Drive {Path(mount).name}", Path(mount)) for mount in shown if mount.startswith(MOUNTED_BELOW)]


def contents(folder: Path) -> Contents:
    """The folders and the number of images in a folder. Raises OSError."""
    folders, num_images = [], 0
    for entry in _visible(folder):
        if entry.is_dir():
            folders.append(entry.name)
        else:
            num_images += entry.name.rpartition(".")[2].lower() in EXTENSIONS
    return Contents(tuple(sorted(folders)[:MAX_SHOWN]), num_images)


def images_below(folder: Path) -> tuple[int, bool]:
    """The number of images in a folder and all folders in it, and whether it is complete: a large tree is cut short.

    Links to folders are not followed.
    """
    num_images = num_seen = 0
    waiting = [folder]
    while waiting:
        with contextlib.suppress(OSError):
            for entry in _visible(waiting.pop()):
                num_seen += 1
                if num_seen > MAX_WALKED:
                    return num_images, False
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                else:
                    num_images += entry.name.rpartition(".")[2].lower() in EXTENSIONS
    return num_images, True


def models(folder: Path) -> list[Path]:
    """The possible base models in a folder: single files, diffusers folders, and checkpoints of runs, newest first.

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
    saved: list[Path] = []
    for _, run in sorted(runs, reverse=True):
        saved += reversed(checkpoints_of(run))
    return [*saved, *sorted(found)][:MAX_SHOWN]


def is_model(path: Path) -> bool:
    """Whether this looks like a base model; it is only read once it is chosen."""
    return is_file(path / INDEX) or (path.suffix.lower() in (".safetensors", ".sft", ".ckpt") and is_file(path))


def is_folder(path: Path) -> bool:
    """Whether this is a folder; false for one of another user that cannot be accessed."""
    return os.path.isdir(path)  # noqa: PTH112 -- Path.is_dir raises for lost+found of any drive


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The entries that are not hidden, without broken links, vanished files and names that are not valid text."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.name[:1] != "." and _is_text(entry.name) and entry.stat():
                    yield entry


def _is_text(name: str) -> bool:
    """Whether a page can show a name: an old archive or another system may have left bytes that are not valid text."""
    with contextlib.suppress(UnicodeEncodeError):
        return bool(name.encode())
    return False


def _name_of(folder: Path) -> str:
    if folder == PROGRAM_DIR:
        return "This program's folder"
    return folder.name or str(folder)


def open_folder(folder: Path) -> None:
    """Show a folder in the file manager. Raises Ed2Error where there is none."""
    try:
        if sys.platform == "win32":
            os.startfile(folder)
            return
        opener = shutil.which(OPENERS.get(sys.platform, "xdg-open"))
        has_screen = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
        if opener and has_screen:
            subprocess.Popen(
                [opener, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            return
        why = "this computer has no file manager or no screen"
    except OSError as error:
        why = plain_reason(error)
    raise Ed2Error("The folder cannot be opened", f"{why}.", f"It is {folder}.")
