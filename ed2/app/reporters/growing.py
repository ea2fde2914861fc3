"""A file that a run appends to, on a disk that may be temporarily full and in a folder that may be deleted."""

import os
from collections import deque
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from ed2.disk import append_whole
from ed2.disk_errors import plain_reason
from ed2.errors import LogWriteError
from ed2.text import counted

KEPT_BYTES = 16_000_000
"""How many bytes are kept in memory while they cannot be written: days of curves, or a dozen images."""


@dataclass
class GrowingFile:
    """Grows by whole pieces; those that do not fit on the disk are kept, and written first as soon as there is space.

    If the file is deleted, which Windows does not allow, it is created again.

    Attributes:
        path: of the file, which is created with the first piece.
        name: for messages, as the beginning of a sentence.
        head: the first piece of every new file.
        is_text: whether pieces are lines, so that a torn last line of a killed program is ended first.
    """

    path: Path
    name: str
    head: bytes = b""
    is_text: bool = True
    _file: FileIO | None = field(default=None, repr=False)
    _kept: deque[bytes] = field(default_factory=deque, repr=False)
    _num_kept_bytes: int = 0
    _num_lost: int = 0
    _torn_at: int | None = None  # where a torn piece starts that could not be removed yet

    def write(self, *pieces: bytes) -> None:
        """Append `pieces`, after all that were kept.

        Raises:
            LogWriteError: not all could be written; the rest is kept in memory, up to `KEPT_BYTES`.
        """
        for piece in pieces:
            self._keep(piece)
        try:
            self._write_kept()
        except OSError as error:
            raise self._not_written(error) from error

    def to_disk(self) -> None:
        """Force what was written to the disk. Raises LogWriteError."""
        try:
            if self._file is not None:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise self._not_written(error) from error

    def close(self) -> str:
        """Write what is kept, if possible, and close; says what was lost, empty if nothing."""
        reason = ""
        try:
            self._write_kept()
        except OSError as error:
            reason = f": {plain_reason(error)}"
        self._close()
        lost, self._num_lost = self._num_lost + len(self._kept), 0
        self._kept.clear()
        return f"{self.name}: {counted(lost, 'entry', 'entries')} could not be written{reason}." if lost else ""

    def _keep(self, piece: bytes) -> None:
        if self._num_kept_bytes + len(piece) > KEPT_BYTES:
            self._num_lost += 1
            return
        self._kept.append(piece)
        self._num_kept_bytes += len(piece)

    def _write_kept(self) -> None:
        while self._kept:
            self._append(self._kept[0])
            self._num_kept_bytes -= len(self._kept.popleft())

    def _append(self, piece: bytes) -> None:
        file = self._open()
        size = file.seek(0, os.SEEK_END)
        try:
            append_whole(file, piece)
        except OSError:
            self._torn_at = size
            self._close()
            raise

    def _open(self) -> FileIO:
        """The open file, or a new one if it was deleted."""
        if self._file is None or not _is_at(self._file, self.path):
            self._close()
            self.path.parent.mkdir(exist_ok=True)  # not its parents, which may be on a drive that is gone
            self._file = FileIO(self.path, "a+")
            try:
                self._begin(self._file)
            except OSError:
                self._close()
                raise
        return self._file

    def _begin(self, file: FileIO) -> None:
        size = file.seek(0, os.SEEK_END)
        if self._torn_at is not None and size > self._torn_at:
            size = file.truncate(self._torn_at)
        self._torn_at = None
        if not size and self.head:
            append_whole(file, self.head)
        elif size and self.is_text:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                append_whole(file, b"\n")

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _not_written(self, error: OSError) -> LogWriteError:
        kept = "some entries are lost" if self._num_lost else "nothing is lost so far"
        fix = f"Training continues, and writing is tried again; {kept}."
        return LogWriteError(f"{self.name} cannot be written", f"{plain_reason(error)}.", fix)


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
