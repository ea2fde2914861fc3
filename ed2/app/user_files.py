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

    def presets(self) -> dict[str, Path]:
        """Presets by title: the shipped ones, then the user's own."""
        shipped = {_title(path): path for path in sorted(SHIPPED.glob("*.json"))}
        own = {f"My preset: {path.stem}": path for path in sorted((self.folder / "presets").glob("*.json"))}
        return {**shipped, **own}

    def keep_preset(self, name: str, values: Mapping[str, object]) -> str:
        """Save settings as one of the user's presets; returns its title.

        Raises:
            SettingsError: the name is not valid for a file.
            OSError: it cannot be written.
        """
        if not _NAME.fullmatch(name.strip()) or is_reserved(name.strip()):
            fix = "Use up to 60 letters, digits, spaces, - and _."
            raise SettingsError("The preset cannot be saved:", [Problem(None, f"{name!r} is not a valid name.", fix)])
        self.write(f"presets/{name.strip()}.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        return f"My preset: {name.strip()}"

    def write(self, name: str, text: str) -> Path:
        """Write a small file into the folder, whole or not at all. Raises OSError."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
        return path


def _title(path: Path) -> str:
    try:
        about = read_object(path).get(ABOUT, {})
        return str(about.get("title", path.stem))
    except (OSError, ValueError, AttributeError):
        return path.stem


def preset_values(path: Path) -> dict[str, object]:
    """The settings of a preset, with absolute paths and current names. Raises SettingsError."""
    return dict(gather({}, path).values)
