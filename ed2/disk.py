"""Files that are there whole or not at all, and what a failing disk says in plain words. Knows nothing of models."""

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO

RENAME_TRIES = 10
RENAME_WAIT_SECONDS = 0.2
TEMPORARY = ".tmp-"
"""Begins the names of what is not finished; the dot keeps programs that list models from seeing it."""
TRASH = ".trash-"
"""Begins the names of what is being removed."""
SWEPT_AFTER_SECONDS = 120
"""A half file of a dead program that was not written to for so long is removed; one of a living program after a day."""
READ_BYTES = 1 << 20

FULL = "the disk is full"
GONE = "its folder is gone or the drive does not answer"
DENIED = "there is no permission to write there"
_BY_NUMBER = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: "the disk space that this user may fill is used up",
    errno.EFBIG: "the disk is full, or takes no files of this size",
    errno.EACCES: DENIED,
    errno.EPERM: DENIED,
    errno.EROFS: "the drive is read-only",
    errno.ENOENT: GONE,
    errno.ENOTDIR: "a file stands where its folder should be",
    errno.EEXIST: "a file stands where its folder should be",
    errno.EISDIR: "a folder stands where its file should be",
    errno.EIO: "the drive reports an error",
    errno.ENODEV: GONE,
    errno.ENXIO: GONE,
    errno.ESTALE: GONE,
    errno.ENOTCONN: GONE,
    errno.EHOSTDOWN: GONE,
}
_NO_CALL_FOR_FOLDERS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)
"""What network and FUSE drives say that cannot force a folder to the disk; its files they can."""
_NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)")
_TORCH_WRITER = re.compile(r"PytorchStreamWriter|unexpected pos|file write failed|iostream error")


logger = logging.getLogger(__name__)

_DEVICES = frozenset(
    (
        "CON",
        "PRN",
        "AUX",
        "NUL",
        "CONIN$",
        "CONOUT$",
        *(f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³"),
    )
)


def is_reserved(name: str) -> bool:
    """Whether Windows cannot have a file of that name: a device, also with an extension, or a full stop at its end.

    Asked everywhere, since runs move between computers.
    """
    return name[-1:] in (".", " ") or name.partition(".")[0].rstrip().upper() in _DEVICES


class HashingFile:
    """A file to write that knows the SHA-256 and the length of what went into it."""

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
        was_read: told after each block how many bytes it had; an exception of its own leaves the file half read.
    """
    digest, block = hashlib.sha256(), memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(block):
            digest.update(block[:num_bytes])
            was_read(num_bytes)
    return digest.hexdigest()


def write_whole(target: Path, content: bytes) -> None:
    """Write a small file under a temporary name, then give it its own."""
    write_pieces(target, [content])


def write_pieces(target: Path, pieces: Iterable[bytes]) -> None:
    """Write a file piece by piece under a temporary name, then give it its own."""
    temporary = temporary_name(target)
    try:
        with temporary.open("wb") as file:
            file.writelines(pieces)
        to_disk(temporary)
        replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def append_whole(file: FileIO, content: bytes) -> None:
    """Add all of `content` to an unbuffered file that is open for appending, or nothing of it. Raises OSError."""
    size, left = file.seek(0, os.SEEK_END), memoryview(content)
    try:
        while left:
            left = left[file.write(left) or 0 :]
    except OSError:
        with contextlib.suppress(OSError):  # of a drive that is gone
            file.truncate(size)
        raise


def why_not_writable(folder: Path) -> str:
    """Why no file can be made in a folder, in plain words; empty where one can."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=TEMPORARY):
            return ""
    except OSError as error:
        return plain_reason(error)


def temporary_name(target: Path) -> Path:
    """Where this thread writes what becomes `target`: beside it, so that the way there is a rename."""
    return target.with_name(f"{TEMPORARY}{os.getpid()}-{threading.get_native_id()}-{target.name}")


def sweep_half_files(folder: Path) -> None:
    """Remove the half files that killed programs left in a folder which several programs may write to."""
    for leftover in _listed(folder, f"{TEMPORARY}*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            seconds = time.time() - leftover.stat().st_mtime
            is_alive = _is_alive(int(leftover.name.split("-")[1]))
            if leftover.is_file() and seconds > (86_400 if is_alive else SWEPT_AFTER_SECONDS):
                leftover.unlink()


def remove_tree(folder: Path) -> None:
    """Remove a folder by way of another name, so that nobody meets half of it. Raises OSError."""
    trash = folder.with_name(f"{TRASH}{time.time_ns()}-{folder.name}")
    rename(folder, trash)
    shutil.rmtree(trash)


def finish_folder(temporary: Path, target: Path) -> None:
    """Give a folder, whose files are on the disk, its name. Raises OSError, and then it does not have it."""
    for inner, _, _ in os.walk(temporary, topdown=False):
        to_disk(Path(inner))
    rename(temporary, target)
    _name_to_disk(target)


def rename(old: Path, new: Path) -> None:
    """Rename; on Windows again for two seconds, since a virus scanner may hold on to a file that was just written."""
    for _ in range(RENAME_TRIES - 1):
        try:
            old.rename(new)
        except PermissionError:
            time.sleep(RENAME_WAIT_SECONDS)
        else:
            return
    old.rename(new)


def replace(temporary: Path, target: Path) -> None:
    """Give a finished file its name, in the place of what had it before, and see that the disk knows."""
    for _ in range(RENAME_TRIES - 1):
        try:
            temporary.replace(target)
        except PermissionError:
            time.sleep(RENAME_WAIT_SECONDS)
        else:
            break
    else:
        temporary.replace(target)
    _name_to_disk(target)


def _name_to_disk(target: Path) -> None:
    """See that the disk knows a new name; where it refuses, the file is there until a power cut."""
    try:
        to_disk(target.parent)
    except OSError as error:
        logger.warning("%s is written, but a power cut may still lose it: %s.", target, plain_reason(error))


def to_disk(path: Path) -> None:
    """See that a file or folder has reached the disk. Raises OSError."""
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
        if hasattr(os, "posix_fadvise"):  # so that reading it back asks the drive, not the computer's memory
            with contextlib.suppress(OSError):
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def plain_reason(error: BaseException) -> str:
    """Why a file could not be written, in plain words: also where a library has wrapped what the system said.

    safetensors gives the number of the error in its text only; torch.save hides a full disk behind a complaint about
    its own position in the file.
    """
    number = next((n for e in _chain(error) if (n := _number(e)) is not None), None)
    if number is not None:
        return _BY_NUMBER.get(number, os.strerror(number))
    if any(isinstance(e, RuntimeError) and _TORCH_WRITER.search(str(e)) for e in _chain(error)):
        return FULL
    if isinstance(error, MemoryError):
        return "the computer's memory does not suffice"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _number(error: BaseException) -> int | None:
    """The system's number of an error; None where it is none of the system's."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _NUMBER_IN_TEXT.search(str(error))
    return int(found[1]) if found else None


def _listed(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))
    except OSError:
        return []


def _is_alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)
