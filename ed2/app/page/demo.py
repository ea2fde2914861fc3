"""The demo's settings, and whether a run of one's own should begin with them: they do not unless the user says so."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ed2.app.page.start import DEFAULT_FOLDERS
from ed2.app.user_files import SHIPPED, UserFiles, preset_values
from ed2.settings.files import PROGRAM_DIR, absolute_paths
from ed2.small_files import read_object

DEMO = SHIPPED / "demo.json"
MARK = "demo.json"
OPEN, WANTED = "open", "demo"
OF_A_RUN = ("data_root", "resume_ckpt", "project_name", "sample_prompts")
"""What a preset names that belongs to its run alone, and would not suit another one."""


@dataclass(frozen=True)
class DemoSettings:
    """What the demo is trained with.

    Attributes:
        preset: its file.
        user: where the answer to the question is kept.
    """

    preset: Path
    user: UserFiles

    @cached_property
    def named(self) -> Mapping[str, object]:
        """The settings of its preset, absolute. Raises SettingsError."""
        return preset_values(self.preset)

    @property
    def tuned(self) -> dict[str, object]:
        """Its settings that another run could begin with."""
        return {name: value for name, value in self.named.items() if name not in OF_A_RUN}

    def leaked_into(self, values: Mapping[str, object]) -> bool:
        """Whether a form has other images or another base than the demo, and still all its settings, unasked."""
        if self._answer() == WANTED:
            return False
        given = absolute_paths(values, PROGRAM_DIR)
        return self._is_other(given) and all(given.get(name) == value for name, value in self.tuned.items())

    def asks_about(self, values: Mapping[str, object]) -> bool:
        """Whether to ask if a form with other images or another base should have the demo's settings."""
        return self._answer() == OPEN and self._is_other(absolute_paths(values, PROGRAM_DIR))

    def trained(self) -> None:
        """The demo was trained: ask at the next images or base. Raises OSError."""
        if not (self.user.folder / MARK).exists():
            self._keep(OPEN)

    def answered(self, *, is_wanted: bool) -> None:
        """Ask no more. Raises OSError."""
        self._keep(WANTED if is_wanted else "fresh")

    def _is_other(self, given: Mapping[str, object]) -> bool:
        for name in ("data_root", "resume_ckpt"):
            value = given.get(name)
            if isinstance(value, tuple):
                value = list(value)
            if value and value not in (DEFAULT_FOLDERS, self.named.get(name)):
                return True
        return False

    def _answer(self) -> object:
        """The answer that is kept; `OPEN` before there is one, None where nothing was asked."""
        try:
            return read_object(self.user.folder / MARK).get("answer")
        except (OSError, ValueError):
            return None

    def _keep(self, answer: str) -> None:
        self.user.write(MARK, json.dumps({"answer": answer}))
