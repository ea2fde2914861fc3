"""Changes of small files beside images, captions above all: written whole or not at all, and undone as one.

They are the only thing that ever writes into a dataset folder, and only when the user asks for it. Before anything is
changed, the old content of every file is kept in a record; a program that is killed in between finds it and restores
the files.
"""

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ed2.data.walk import escape_undecodable
from ed2.disk import rename_over, temporary_name, to_disk, write_whole
from ed2.errors import Ed2Error
from ed2.small_files import read_object

NOTHING_CHANGED = "Nothing was changed"
NOT_UNDONE = "The change was not undone"
PENDING, DONE = ".pending", ".json"
"""Extensions of a record, while its files are written and afterwards."""

WRITERS = 16
"""Threads that write files at once: most of the time each waits for the drive."""


@dataclass(frozen=True)
class FileChange:
    """The content of a file before and after a change; None means that there is no file."""

    path: Path
    old: bytes | None
    new: bytes | None


@dataclass(frozen=True)
class _Record:
    """What was changed, and by which file it is remembered."""

    file: Path
    what: str
    changes: tuple[FileChange, ...]
    is_checked: bool = True
    """Whether it says what was written; earlier versions did not."""


class Edits:
    """Writes such changes and keeps what was there before.

    Attributes:
        folder: where the records are kept.
    """

    def __init__(self, folder: Path, allow: Callable[[Path], bool] = lambda path: True) -> None:
        """Keep records in `folder`; `allow` says which files may be changed."""
        self.folder, self._allow = folder, allow
        self._lock = threading.Lock()

    def write(self, what: str, changes: Sequence[FileChange]) -> str:
        """Make all of these changes, or none, and return the name of their record.

        Args:
            what: was done, as in `"sks dog" added to 40 captions`.
            changes: each file must still have its old content.

        Raises:
            Ed2Error: a file may not be changed, was changed meanwhile, or cannot be written; all are as they were.
        """
        with self._lock:
            self._restore_half_written()
            for change in changes:
                self._require_unchanged(change, NOTHING_CHANGED, [change.old])
            record = self._keep(what, changes)
            try:
                _replace_all(changes)
            except OSError as error:
                with contextlib.suppress(OSError):  # else the record is left, and the next change tries it again
                    _restore(changes)
                    record.unlink(missing_ok=True)
                raise Ed2Error(NOTHING_CHANGED, f"{error.strerror or error}.") from None
            return record.rename(record.with_suffix(DONE)).name

    def undo(self, roots: Sequence[Path]) -> str:
        """Undo the last change of files below these folders and return what it was; empty if there is none.

        Raises:
            Ed2Error: a file was changed since, or cannot be written; nothing is undone.
        """
        with self._lock:
            self._restore_half_written()
            record = self._last(roots)
            if record is None:
                return ""
            back = [FileChange(change.path, change.new, change.old) for change in record.changes]
            if record.is_checked:
                for change in back:
                    self._require_unchanged(change, NOT_UNDONE, [change.old, change.new])
            try:
                _replace_all(back)
            except OSError as error:
                with contextlib.suppress(OSError):
                    _restore(back)
                raise Ed2Error(NOT_UNDONE, f"{error.strerror or error}.") from None
            record.file.unlink(missing_ok=True)
            return record.what

    def last(self, roots: Sequence[Path]) -> str:
        """The name of the record that `undo` would undo; empty if there is none."""
        record = self._last(roots)
        return record.file.name if record else ""

    def _last(self, roots: Sequence[Path]) -> _Record | None:
        for record in self._records(DONE):
            if all(self._is_within(roots, change.path) for change in record.changes):
                return record
        return None

    def _is_within(self, roots: Sequence[Path], path: Path) -> bool:
        return any(map(path.is_relative_to, roots)) and self._allow(path)

    def _restore_half_written(self) -> None:
        """Restore the files of changes that the end of the program cut short."""
        for record in self._records(PENDING):
            if all(self._allow(change.path) for change in record.changes):
                with contextlib.suppress(OSError):
                    _restore(record.changes)
                    record.file.unlink(missing_ok=True)

    def _require_unchanged(self, change: FileChange, what: str, contents: Sequence[bytes | None]) -> None:
        name = escape_undecodable(change.path.name)
        if not self._allow(change.path):
            raise Ed2Error(what, f"{name} is outside of the folders that may be opened.")
        try:
            now = content_of(change.path)
        except OSError as error:
            raise Ed2Error(what, f"{name} cannot be read ({error.strerror or error}).") from None
        if now not in contents:
            why = f"another program has changed {name}."
            raise Ed2Error(what, why, "Press Check to read the folder again.")

    def _keep(self, what: str, changes: Sequence[FileChange]) -> Path:
        files = [{"path": str(c.path), "old": _encoded(c.old), "new": _encoded(c.new)} for c in changes]
        record = self.folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}{PENDING}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(record, json.dumps({"what": what, "files": files}).encode())
        except OSError as error:
            why = f"the old content cannot be kept in {self.folder} ({error.strerror or error})."
            raise Ed2Error(NOTHING_CHANGED, why) from None
        return record

    def _records(self, extension: str) -> Iterator[_Record]:
        """The readable records, newest first."""
        for file in sorted(self.folder.glob(f"[!.]*{extension}"), reverse=True):
            try:
                yield _record_in(file, read_object(file))
            except (OSError, ValueError, KeyError, TypeError):
                continue


def content_of(path: Path) -> bytes | None:
    """The content of a file, None if there is none. Raises OSError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _record_in(file: Path, content: dict[str, Any]) -> _Record:
    if "files" not in content:  # of an earlier version: one caption
        old = FileChange(Path(content["path"]), _decoded(content["old"]), None)
        return _Record(file, f"the caption in {escape_undecodable(old.path.name)}", (old,), is_checked=False)
    changes = [FileChange(Path(f["path"]), _decoded(f["old"]), _decoded(f["new"])) for f in content["files"]]
    return _Record(file, str(content["what"]), tuple(changes))


def _replace_all(changes: Sequence[FileChange]) -> None:
    """Write every file beside its old one first, so that a full drive is found before any is replaced."""
    beside = {change.path: temporary_name(change.path) for change in changes if change.new is not None}

    def write(change: FileChange) -> None:
        if change.new is not None:
            beside[change.path].write_bytes(change.new)
            to_disk(beside[change.path])

    try:
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(write, changes))
        for change in changes:
            if change.new is None:
                change.path.unlink(missing_ok=True)
            else:
                rename_over(beside[change.path], change.path)
        for folder in {change.path.parent for change in changes}:
            to_disk(folder)
    finally:
        for temporary in beside.values():
            temporary.unlink(missing_ok=True)


def _restore(changes: Sequence[FileChange]) -> None:
    """Give the files that have their new content the old one again."""
    _replace_all([FileChange(c.path, c.new, c.old) for c in changes if content_of(c.path) == c.new])


def _encoded(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
