"""Writing folders and files that are there whole or not at all."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RENAME_TRIES = 10
RENAME_WAIT_SECONDS = 0.2


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder to fill, which becomes `target` at the end of the block.

    Files and folders reach the disk before the rename, so that a power cut leaves the whole of it or nothing. If the
    block fails the temporary folder is removed and `target` is untouched.

    Raises:
        FileExistsError: `target` is there already; nothing is ever written over it.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists")
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _to_disk(Path(folder) / name)
            _to_disk(Path(folder))
        _rename(temporary, target)
        _to_disk(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders that a killed program left in `folder`."""
    for leftover in folder.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def write_whole(target: Path, content: bytes) -> None:
    """Write a small file under a temporary name, then give it its own."""
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    temporary.write_bytes(content)
    _to_disk(temporary)
    temporary.replace(target)


def _rename(old: Path, new: Path) -> None:
    """Rename; on Windows again for two seconds, since a virus scanner may hold on to a file that was just written."""
    for _ in range(RENAME_TRIES - 1):
        try:
            old.rename(new)
        except PermissionError:
            time.sleep(RENAME_WAIT_SECONDS)
        else:
            return
    old.rename(new)


def _to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows has no such call for folders
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
