"""How the program ends when it writes to a pipe that nobody reads any more.

Standard library only: the launcher uses it before anything is installed.
"""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

READER_LEFT = 128 + 13
"""Exit code where the output was cut off, as a shell reports a program that SIGPIPE ended."""


def exit_with(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run `main` with the command line and exit with its code.

    `train.py --help | head` closes the pipe while there is still text to write. Python would end with a traceback;
    this ends without a word, like any other command in a pipe.
    """
    code = READER_LEFT
    try:
        try:
            code = main(sys.argv[1:])
        finally:
            if sys.stdout is not None:  # as it is where the program was started without any output
                sys.stdout.flush()
    except OSError:
        if sys.stdout is None or not _has_reader_left():
            raise
        # Python flushes once more as it exits: give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _has_reader_left() -> bool:
    """Whether standard output is a closed pipe, told by writing to it: an error has emptied its buffer."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError as error:
        return error.errno in (errno.EPIPE, errno.EINVAL)  # EINVAL: on Windows
    return False
