"""What the makers of hostile files have in common: a case, and what is expected of the program."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One hostile file.

    Attributes:
        name: of the file, or of the folder that `files` go into.
        content: its bytes.
        expected: what the program's words have to match, a regular expression; empty where the file is to be used.
        either: whether both are right, the words and being used, as for a flipped bit that may or may not be seen.
        note: the kind of the note that a used file gets.
    """

    name: str
    content: bytes
    expected: str = ""
    either: bool = False
    note: str = ""


def write(cases: Iterable[Case], folder: Path) -> list[Case]:
    """Write every case, and beside the folder a list of what is expected; refuses two of one name."""
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Case] = {}
    for case in cases:
        if case.name in written:
            raise ValueError(f"two cases are called {case.name}")
        written[case.name] = case
        (folder / case.name).write_bytes(case.content)
    listed = {case.name: case.expected or "used" for case in written.values()}
    (folder.parent / f"{folder.name}.expected.json").write_text(json.dumps(listed, indent=1))
    return list(written.values())
