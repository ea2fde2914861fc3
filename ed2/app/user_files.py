"""The user's own files, all in one folder: the draft of the form, presets, sample prompts."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ed2.disk import is_reserved, write_whole
from ed2.errors import Problem, SettingsError
from ed2.settings.files import ABOUT, PROGRAM_DIR
from ed2.settings.gather import gather
from ed2.small_files import read_object

SHIPPED = PROGRAM_DIR / "presets"
PLANNED_GPU = "planned_gpu.json"
OWN = "My preset: "
"""Begins the title of a preset of the user."""
_NAME = re.compile(r"[A-Za-z0-9][\w .-]{0,60}")


@dataclass(frozen=True)
class UserFiles:
    """The user's folder."""

    folder: Path = PROGRAM_DIR / "user"

    @property
    def prompts(self) -> Path:
        """The sample prompts that the page writes."""
        return self.folder / "sample_prompts.json"

    def draft(self) -> dict[str, object]:
        """The last form; empty if there is none or it is damaged."""
        try:
            return read_object(self.folder / "draft.json")
        except (OSError, ValueError):
            return {}

    def keep_draft(self, values: Mapping[str, object]) -> None:
        """Save the form. Raises OSError."""
        self.write("draft.json", json.dumps(values, indent=1, ensure_ascii=False))

    def planned_gb(self) -> float:
        """Memory of the GPU that the page plans for; 0, which is the one in this computer, if none was chosen."""
        try:
            planned = read_object(self.folder / PLANNED_GPU).get("gb")
        except (OSError, ValueError):
            return 0
        return planned if isinstance(planned, int | float) else 0

    def keep_planned_gb(self, planned_gb: float) -> None:
        """Save the memory of the GPU that the page plans for. Raises OSError."""
        self.write(PLANNED_GPU, json.dumps({"gb": planned_gb}))

    def presets(self) -> dict[str, Path]:
        """Presets by title: the shipped ones, then the user's own."""
        shipped = {_title(path): path for path in sorted(SHIPPED.glob("*.json"))}
        return {**shipped, **self.own_presets()}

    def own_presets(self) -> dict[str, Path]:
        """The user's own presets by title."""
        return {f"{OWN}{path.stem}": path for path in sorted((self.folder / "presets").glob("*.json"))}

    def keep_preset(self, name: str, values: Mapping[str, object]) -> str:
        """Save settings as one of the user's presets; returns its title.

        Raises:
            SettingsError: the name is not valid for a file.
            OSError: it cannot be written.
        """
        name = _file_name(name)
        self.write(f"presets/{name}.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        return f"{OWN}{name}"

    def rename_preset(self, title: str, name: str) -> str:
        """Give one of the user's presets another name; returns its title.

        Raises:
            SettingsError: it is not the user's or is gone, or the name is taken or not valid for a file.
            OSError: it cannot be renamed.
        """
        old, name = self._own(title), _file_name(name)
        new = old.with_name(f"{name}.json")
        if new.exists() and not new.samefile(old):  # on Windows and macOS another case is the same file
            raise _refused(f"there is a preset named {name!r} already.", "Choose another name, or delete that one.")
        old.rename(new)
        return f"{OWN}{name}"

    def remove_preset(self, title: str) -> None:
        """Delete one of the user's presets.

        Raises:
            SettingsError: it is not the user's, or is gone.
            OSError: it cannot be deleted.
        """
        self._own(title).unlink()

    def _own(self, title: str) -> Path:
        path = self.own_presets().get(title)
        if path is None:
            raise _refused(f"{title!r} is not one of your own presets.", "Choose one of yours.")
        return path

    def write(self, name: str, text: str) -> Path:
        """Write a small file into the folder, whole or not at all. Raises OSError."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
        return path


def _file_name(name: str) -> str:
    name = name.strip()
    if not _NAME.fullmatch(name) or is_reserved(name):
        raise _refused(f"{name!r} is not a valid name.", "Use up to 60 letters, digits, spaces, - and _.")
    return name


def _refused(what: str, fix: str) -> SettingsError:
    return SettingsError("The presets stay as they are:", [Problem(None, what, fix)])


def _title(path: Path) -> str:
    try:
        about = read_object(path).get(ABOUT, {})
        return str(about.get("title", path.stem))
    except (OSError, ValueError, AttributeError):
        return path.stem


def preset_values(path: Path) -> dict[str, object]:
    """The settings of a preset, with absolute paths and current names. Raises SettingsError."""
    return dict(gather({}, path).values)
