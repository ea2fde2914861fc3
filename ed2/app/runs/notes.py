"""What a person calls a run and notes about it, in a file of the run's folder, so that it moves with the run."""

import json
from dataclasses import dataclass
from pathlib import Path

from ed2.disk import write_whole
from ed2.small_files import read_object

NOTES_FILE = "notes.json"
MAX_NAME, MAX_TEXT = 100, 20_000
"""Characters of a name, and of a note."""


@dataclass(frozen=True)
class RunNotes:
    """The name that a run is shown under, if it has another than its folder's, and a text about it."""

    name: str = ""
    text: str = ""

    @classmethod
    def read(cls, run_dir: Path) -> "RunNotes":
        """Those of a run; none where the file is missing or damaged."""
        try:
            found = read_object(run_dir / NOTES_FILE)
        except (OSError, ValueError):
            return cls()
        return cls(*(str(found.get(part) or "")[:most] for part, most in (("name", MAX_NAME), ("text", MAX_TEXT))))

    def write(self, run_dir: Path) -> None:
        """Keep them in the run's folder. Raises OSError."""
        values = {"name": " ".join(self.name.split())[:MAX_NAME], "text": self.text.strip()[:MAX_TEXT]}
        write_whole(run_dir / NOTES_FILE, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())
