"""Writing, renaming and removing files completely or not at all."""

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from itertools import product
from pathlib import Path
from typing import BinaryIO

from ed2.disk_errors import plain_reason

RENAME_TRIES = 10
RENAME_WAIT_SECONDS = 0.2
TEMPORARY = ".tmp-"
"""Prefix of unfinished files and folders; the dot hides them from programs that list models."""
TRASH = ".trash-"
"""Prefix of files and folders that are being removed."""
SWEPT_AFTER_SECONDS = 120
"""Age at which a half-written file is removed if its program is dead; otherwise it is removed after a day."""
READ_BYTES = 1 << 20
_NO_CALL_FOR_FOLDERS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)
"""Errors of network and FUSE drives that can sync files but not folders."""

logger = logging.getLogger(__name__)

_PORTS = map("".join, product(("COM", "LPT"), "0123456789¹²³"))
_DEVICES = frozenset(("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *_PORTS))


def is_reserved(name: str) -> bool:
    """Whether Windows does not allow a file of that name: a device, with or without extension, or a trailing full stop.

    Checked on every system, since runs move between computers.
    """
    return name[-1:] in (".", " ") or name.partition(".")[0].rstrip().upper() in _DEVICES


class HashingFile:
    """A file to write to that counts and hashes what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self.num_bytes = file, hashlib.sha256(), 0

    def write(self, content: bytes | memoryview) -> None:
        """Write all of `content`."""
        self._file.write(content)
        self._hash.update(content)
        self.num_bytes += len(content)

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._hash.hexdigest()


def sha256_of(path: Path, was_read: Callable[[int], object] = lambda num_bytes: None) -> str:
    """The hash of a file's bytes. Raises OSError.

    Args:
        path: the file.
        was_read: called after each block with its number of bytes; an exception that it raises ends the reading.
    """
    digest, block = hashlib.sha256(), memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(block):
            digest.update(block[:num_bytes])
            was_read(num_bytes)
    return digest.hexdigest()


def holds(path: Path, pieces: Iterable[bytes | memoryview], was_read: Callable[[int], object]) -> bool:
    """Whether a file holds exactly these bytes; much quicker than a hash. Arguments and errors as for `sha256_of`."""
    block = bytearray(READ_BYTES)
    with path.open("rb", buffering=0) as file:
        for content in pieces:
            piece, place = memoryview(content), 0
            while place < len(piece):
                size = min(READ_BYTES, len(piece) - place)
                read = file.readinto(memoryview(block)[:size])
                # A whole block is compared without the copy that a slice of it takes.
                found = block if read == READ_BYTES else block[:read]
                if not read or found != piece[place : place + read]:
                    return False
                place += read
                was_read(read)
        return not file.read(1)


def write_whole(target: Path, content: bytes) -> None:
    """Write a small file under a temporary name, then rename it."""
    write_pieces(target, [content])


def write_pieces(target: Path, pieces: Iterable[bytes]) -> None:
    """Write a file piece by piece under a temporary name, then rename it."""
    with temporary_file(target) as temporary:
        with temporary.open("wb") as file:
            file.writelines(pieces)
        to_disk(temporary)
        replace(temporary, target)


def write_if_free(target: Path, content: bytes) -> bool:
    """Write a small file unless there is a file of that name; false if there is one. Raises OSError."""
    with temporary_file(target) as temporary:
        temporary.write_bytes(content)
        to_disk(temporary)
        return rename_if_free(temporary, target)


def append_whole(file: FileIO, content: bytes) -> None:
    """Append all of `content` to an unbuffered file, or nothing. Raises OSError."""
    size, left = file.seek(0, os.SEEK_END), memoryview(content)
    try:
        while left:
            left = left[file.write(left) or 0 :]
    except OSError:
        with contextlib.suppress(OSError):  # the drive is gone
            file.truncate(size)
        raise


def why_not_writable(folder: Path) -> str:
    """Why no file can be created in a folder, in plain words; empty if one can."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=TEMPORARY):
            return ""
    except OSError as error:
        return plain_reason(error)


@contextlib.contextmanager
def temporary_file(target: Path) -> Iterator[Path]:
    """Yield the path to write the new `target` to before it is renamed; a file left there is removed."""
    temporary = temporary_name(target)
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_name(target: Path) -> Path:
    """Where this thread writes the new `target`: next to it, so that a rename is enough."""
    return target.with_name(f"{TEMPORARY}{os.getpid()}-{threading.get_native_id()}-{target.name}")


def sweep_half_files(folder: Path) -> None:
    """Remove half-written files of killed programs from a folder that several programs may write to."""
    import psutil

    for leftover in _listed(folder, f"{TEMPORARY}*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            seconds = time.time() - leftover.stat().st_mtime
            is_alive = psutil.pid_exists(int(leftover.name.split("-")[1]))
            if leftover.is_file() and seconds > (86_400 if is_alive else SWEPT_AFTER_SECONDS):
                leftover.unlink()


def _listed(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))
    except OSError:
        return []


def remove_tree(folder: Path) -> None:
    """Remove a folder after renaming it, so that no program sees half of it. Raises OSError."""
    trash = folder.with_name(f"{TRASH}{time.time_ns()}-{folder.name}")
    rename(folder, trash)
    shutil.rmtree(trash)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `target` at the end of the block; if anything fails, it is removed.

    All of it is synced before the rename: a power cut leaves the whole folder or nothing.

    Raises:
        OSError: it cannot be written, or there is a folder of that name.
    """
    temporary = temporary_name(target)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for inner, _, files in os.walk(temporary, topdown=False):
            for name in (*files, ""):
                to_disk(Path(inner, name))
        rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _name_to_disk(target)


def rename(old: Path, new: Path) -> None:
    """Rename a file or folder."""
    _retried(old.rename, new)


def replace(temporary: Path, target: Path) -> None:
    """Rename a finished file, replacing an older one of that name, and sync the folder."""
    rename_over(temporary, target)
    _name_to_disk(target)


def rename_over(temporary: Path, target: Path) -> None:
    """Rename a finished file, replacing an older one of that name; its folder still has to be synced."""
    _retried(temporary.replace, target)


def _retried(move: Callable[[Path], object], target: Path) -> None:
    """Retry for two seconds, since a virus scanner on Windows may hold a file that was just written."""
    for _ in range(RENAME_TRIES - 1):
        try:
            move(target)
        except PermissionError:
            time.sleep(RENAME_WAIT_SECONDS)
        else:
            return
    move(target)


def rename_if_free(temporary: Path, target: Path) -> bool:
    """Give a finished file its name unless there is a file of that name; false where there is one. Raises OSError.

    Of several programs that do this at once, one gets the name. Looking first and renaming then would leave a gap.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError:  # a drive without hard links
        try:
            target.open("xb").close()
        except FileExistsError:
            return False
        replace(temporary, target)
        return True
    temporary.unlink()
    _name_to_disk(target)
    return True


def _name_to_disk(target: Path) -> None:
    """Sync a new name to the disk; if that fails, a power cut may lose the file."""
    try:
        to_disk(target.parent)
    except OSError as error:
        logger.warning("%s is written, but may be lost in a power cut: %s.", target, plain_reason(error))


def to_disk(path: Path) -> None:
    """Force a file or folder to the disk. Raises OSError."""
    if not path.is_dir():
        _to_disk(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    elif os.name != "nt":  # Windows has no such call for folders
        try:
            _to_disk(path, os.O_RDONLY)
        except OSError as error:
            if error.errno not in _NO_CALL_FOR_FOLDERS:
                raise


def _to_disk(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
        _drop_from_cache(handle)  # so that reading it back reads the drive
    finally:
        os.close(handle)


def drop_from_cache(files: Iterable[Path]) -> None:
    """Take files that are on the disk out of the system's cache, as far as it allows that.

    The next ones are then written to the memory that is free again. Memory that was never used takes several times as
    long, and what other programs need of the cache stays in it.
    """
    for file in files:
        with contextlib.suppress(OSError):
            handle = os.open(file, os.O_RDONLY)
            try:
                _drop_from_cache(handle)
            finally:
                os.close(handle)


def _drop_from_cache(handle: int) -> None:
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
