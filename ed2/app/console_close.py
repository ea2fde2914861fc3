"""The few seconds between the closing of a console on Windows and the end of its program."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CLOSING = (2, 5, 6)
"""CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT. Source: Microsoft, HandlerRoutine callback function."""
SECONDS = 4.5
"""Windows ends the program five seconds after such an event, or as soon as its handler returns."""


@contextmanager
def saving_when_closed(stop: Callable[[int], object]) -> Iterator[None]:
    """Ask for a stop when the console is closed, and hold Windows back until the block ends; elsewhere do nothing.

    Python's own handler of SIGBREAK would return at once, and the program be gone before the step ended. This one waits
    in a thread of Windows. Where the seconds do not suffice, the last checkpoint stays what it is.
    """
    if sys.platform != "win32":
        yield
        return
    import ctypes
    from ctypes import wintypes

    done = threading.Event()

    @ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)
    def on_event(event: int) -> bool:
        if event not in CLOSING:
            return False  # Ctrl-C and Ctrl-Break are for Python's handlers
        stop(signal.SIGBREAK)
        done.wait(SECONDS)
        return True

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.SetConsoleCtrlHandler(on_event, True)  # the last one that was set is asked first
    try:
        yield
    finally:
        done.set()
        kernel.SetConsoleCtrlHandler(on_event, False)
