"""A save that dies at its k-th call of the file system, in a child of this process: about a tenth of a second each."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ed2.disk import HashingFile

CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}
"""The audit events of calls that look at or change files."""
CRASHED = 77


def in_child(work: Callable[[], object]) -> int:
    """Do `work` in a child; its exit code, 0 where it ended by itself, 1 where it raised."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        sys.stdout = sys.stderr = io.StringIO()  # what the parent has buffered is the parent's to write
        work()
        code = 0
    finally:
        os._exit(code)


def crash_at(point: int, root: Path, work: Callable[[], object], *, with_writes: bool) -> int:
    """Do `work` in a child that dies before call number `point` of those that touch `root`."""

    def dying() -> None:
        _count_calls(root, with_writes, lambda number, name: os._exit(CRASHED) if number == point else None)
        work()

    return in_child(dying)


def calls_of(root: Path, work: Callable[[], object], listing: Path, *, with_writes: bool) -> list[str]:
    """The calls that `work` makes, in order; it is done in a child."""

    def listed() -> None:
        names: list[str] = []
        _count_calls(root, with_writes, lambda number, name: names.append(name))
        work()
        names, found = [], names
        listing.write_text("\n".join(found))

    assert in_child(listed) == 0
    return listing.read_text().split("\n")


def _count_calls(root: Path, with_writes: bool, meet: Callable[[int, str], object]) -> None:
    """Call `meet` before each call of the file system below `root`; fsync, which has no audit event, is wrapped."""
    counted = 0

    def count(name: str) -> None:
        nonlocal counted
        meet(counted, name)
        counted += 1

    def audited(event: str, given: tuple[Any, ...]) -> None:
        if event in CALLS and given and isinstance(given[0], str | Path) and _is_below(given, root):
            count(event)

    def synced(handle: int) -> None:
        count("os.fsync")
        real_fsync(handle)

    def written(self: HashingFile, content: bytes | memoryview) -> None:
        count("write")
        real_write(self, content)
        self._file.flush()

    real_fsync, real_write = os.fsync, HashingFile.write
    os.fsync = synced
    if with_writes:
        HashingFile.write = written  # type: ignore[method-assign]
    sys.addaudithook(audited)


def _is_below(given: tuple[Any, ...], root: Path) -> bool:
    """Whether a call is about a file below `root`; a name without its folder is told by the folder's handle."""
    return str(given[0]).startswith(str(root)) or not Path(given[0]).is_absolute()
