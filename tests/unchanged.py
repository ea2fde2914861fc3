"""That a dataset stays as it is: neither a scan nor a run writes, renames or deletes anything in it."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def state_of(root: Path) -> dict[str, str]:
    """Size, time, rights and a hash of the content of all that lies below `root`, by its path."""
    found = {}
    for folder, _, files in os.walk(root):
        for path in [Path(folder), *(Path(folder) / name for name in files)]:
            status = path.lstat()
            told = (status.st_size, status.st_mtime_ns, status.st_mode)
            content = path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else b""
            found[str(path)] = f"{told} {hashlib.sha256(content).hexdigest()}"
    return found


@contextmanager
def unchanged(*roots: Path) -> Iterator[None]:
    """Fails when anything below `roots` is not at the end as it was at the beginning; a manifest's folder counts."""
    folders = [root.parent if root.is_file() else root for root in roots]
    before = [state_of(folder) for folder in folders]
    yield
    assert [state_of(folder) for folder in folders] == before, "a dataset was changed"


def watched(scan: Callable[P, T]) -> Callable[P, T]:
    """`scan`, which then fails when anything below its roots is changed by it."""

    def scanned(*args: P.args, **named: P.kwargs) -> T:
        roots = args[0]
        assert isinstance(roots, list | tuple)
        with unchanged(*roots):
            return scan(*args, **named)

    return scanned
