"""Disk errors in plain words, and waiting for one that passes: too many open files."""

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

HANDLES_SECONDS, HANDLES_WAIT_SECONDS = 120.0, 0.5
_TELLING, _NEXT_TOLD = threading.Lock(), [0.0]
_T = TypeVar("_T")

FULL = "the disk is full"
GONE = "its folder is gone or the drive does not answer"
DENIED = "permission to write there is denied"
_BY_NUMBER = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: "this user's disk quota is used up",
    errno.EFBIG: "the disk is full or does not support files of this size",
    errno.EACCES: DENIED,
    errno.EPERM: DENIED,
    errno.EROFS: "the drive is read-only",
    errno.ENOENT: GONE,
    errno.ENOTDIR: "there is a file where its folder should be",
    errno.EEXIST: "there is a file where its folder should be",
    errno.EISDIR: "there is a folder where its file should be",
    errno.EIO: "the drive reports an error",
    errno.EMFILE: "this program has too many files open",
    errno.ENFILE: "this computer has too many files open",
    errno.ENODEV: GONE,
    errno.ENXIO: GONE,
    errno.ESTALE: GONE,
    errno.ENOTCONN: GONE,
    errno.EHOSTDOWN: GONE,
}
_NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)")
_TORCH_WRITER = re.compile(r"PytorchStreamWriter|unexpected pos|file write failed|iostream error")

logger = logging.getLogger(__name__)


def plain_reason(error: BaseException) -> str:
    """Why a file could not be written, in plain words, even if a library has wrapped the system's error.

    safetensors has the number of the error in its text only; torch.save reports a full disk as an unexpected position
    in the file.
    """
    number = next((n for e in _chain(error) if (n := _number(e)) is not None), None)
    if number is not None:
        return _BY_NUMBER.get(number, os.strerror(number))
    if any(isinstance(e, RuntimeError) and _TORCH_WRITER.search(str(e)) for e in _chain(error)):
        return FULL
    if isinstance(error, MemoryError):
        return "out of memory"
    return (str(error).splitlines() or [type(error).__name__])[0]


def is_out_of_handles(error: BaseException) -> bool:
    """Whether an error, or what caused it, is that no more files can be opened, which passes."""
    return any(_number(e) in (errno.EMFILE, errno.ENFILE) for e in _chain(error))


def wait_for_handles(work: Callable[[], _T]) -> _T:
    """Do `work`; while no file can be opened for it, do it again, for up to two minutes, and say so in the log."""
    end = time.monotonic() + HANDLES_SECONDS
    while True:
        try:
            return work()
        except Exception as error:
            if time.monotonic() >= end or not is_out_of_handles(error):
                raise
            if _may_tell_handles():
                logger.warning("Waiting: %s. Nothing is lost.", plain_reason(error))
        time.sleep(HANDLES_WAIT_SECONDS)


def _may_tell_handles() -> bool:
    """Once a minute, whichever thread it is."""
    now = time.monotonic()
    with _TELLING:
        is_due = now >= _NEXT_TOLD[0]
        if is_due:
            _NEXT_TOLD[0] = now + 60
    return is_due


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _number(error: BaseException) -> int | None:
    """The system's number of an error; None for other errors."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _NUMBER_IN_TEXT.search(str(error))
    if not found:
        return None
    return int(found[1])
