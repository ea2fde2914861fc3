"""What the program writes to a terminal, and how it ends when that is a pipe that nobody reads any more.

Standard library only: the launcher uses it before anything is installed.
"""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO

from ed2.text import visible

LAUNCHER = "launch.bat" if os.name == "nt" else "./launch.sh"
"""What a user types before a command; it finds the Python that has the libraries."""
READER_LEFT = 128 + 13
"""Exit code when the output was cut off, as a shell reports a program ended by SIGPIPE."""


def exit_with(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run `main` with the command line and exit with its code.

    `train.py --help | head` closes the pipe while there is still text to write. Python would end with a traceback;
    this ends silently, like any other command in a pipe.
    """
    code = READER_LEFT
    escape_output()
    try:
        try:
            code = main(sys.argv[1:])
        finally:
            if sys.stdout is not None:  # as when the program was started without any output
                sys.stdout.flush()
    except OSError:
        if sys.stdout is None or not _has_reader_left():
            raise
        # Python flushes once more as it exits: give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


class VisibleStream:
    """A text stream that spells out control characters, which names of files and messages of libraries may hold.

    Attributes:
        raw: the stream behind it, for what has to move the cursor.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        """Write a text."""
        self.raw.write(visible(text))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Write texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self.raw, name)


def escape_output() -> None:
    """From now on, spell out control characters in all that this program prints."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, VisibleStream):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a Windows console may not support every character of a caption
            setattr(sys, name, VisibleStream(stream))


def raw_stream(stream: TextIO) -> TextIO:
    """The stream itself, for a progress bar."""
    if isinstance(stream, VisibleStream):
        return stream.raw
    return stream


def _has_reader_left() -> bool:
    """Whether standard output is a closed pipe, found by writing to it: an error has emptied its buffer."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError as error:
        return error.errno in (errno.EPIPE, errno.EINVAL)  # EINVAL: on Windows
    return False
