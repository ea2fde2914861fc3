"""Which folders the page may look into."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ed2.errors import Problem, SettingsError
from ed2.settings.fields import fields
from ed2.settings.files import NAMED_FOLDERS, PROGRAM_DIR


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
