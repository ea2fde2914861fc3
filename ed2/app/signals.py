"""Ending the program from outside: signals, a closed console, the end of the program that started it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from ed2.events import Event, EventBus

STOPPING = "Stopping: the run will be saved after this step. Press again to quit at once without saving."
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
CONSOLE_EVENTS = (2, 5, 6)
"""CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT. Source: Microsoft, HandlerRoutine callback function."""
CONSOLE_SECONDS = 4.5
"""Windows ends the program five seconds after such an event, or as soon as its handler returns."""
SILENT_SECONDS = 1800.0
"""How long a run whose program has ended may report nothing: a save to a slow drive may take that long."""
ENDED_UNSAVED = "The run did not stop within half an hour after the program that started it: it was ended, not saved."


@contextmanager
def stopping_on_signals(stop: Callable[[int], object], message: str | Callable[[], str] = STOPPING) -> Iterator[None]:
    """Make the first Ctrl-C or termination request a stop; the second exits at once, without saving.

    SIGHUP stays ignored under nohup. On Windows, closing the console requests a stop too.

    Args:
        stop: called with the signal number, between two instructions of the main thread.
        message: the line for the terminal, empty for none, or a function that returns it at that moment.
    """
    asked: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if asked:
            os._exit(128 + number)
        asked.append(number)
        stop(number)
        text = message if isinstance(message, str) else message()
        with suppress(OSError):  # a terminal that has hung up accepts no more output
            os.write(2, f"\n{text}\n".encode() if text else b"")

    numbers = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    before = {n: signal.getsignal(n) for n in numbers if not _is_ignored_by_nohup(n)}
    for number in before:
        signal.signal(number, on_signal)
    try:
        with _saving_when_closed(stop):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_ignored_by_nohup(number: int) -> bool:
    return signal.Signals(number).name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN


@contextmanager
def _saving_when_closed(stop: Callable[[int], object]) -> Iterator[None]:
    """Request a stop when the console is closed, and delay Windows until the block ends; elsewhere do nothing.

    Python's own handler of SIGBREAK would return at once, and the program be gone before the step ended. This one waits
    in a thread of Windows. If these seconds are too few, the last checkpoint stays as it is.
    """
    if sys.platform != "win32":
        yield
        return
    import ctypes
    from ctypes import wintypes

    done = threading.Event()

    @ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)
    def on_event(event: int) -> bool:
        if event not in CONSOLE_EVENTS:
            return False  # Ctrl-C and Ctrl-Break are for Python's handlers
        stop(signal.SIGBREAK)
        done.wait(CONSOLE_SECONDS)
        return True

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.SetConsoleCtrlHandler(on_event, True)  # the handler set last is called first
    try:
        yield
    finally:
        done.set()
        kernel.SetConsoleCtrlHandler(on_event, False)


def stop_with_parent(stop: Callable[[int], object], bus: EventBus) -> None:
    """Stop a run, or end it, when the program that holds the other end of the standard input exits, however it does."""

    def wait() -> None:
        os.read(0, 1)
        stop(signal.SIGTERM)
        end_when_silent(bus)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def end_when_silent(bus: EventBus) -> None:
    """End this program, without saving, once a run that was asked to stop has reported nothing for half an hour.

    It may wait for another of its processes without end, and nobody is left to end it.
    """
    heard_at = time.monotonic()

    def listen(event: Event) -> None:
        nonlocal heard_at
        heard_at = time.monotonic()

    bus.subscribe(listen)
    while (left := heard_at + SILENT_SECONDS - time.monotonic()) > 0:
        time.sleep(left)
    with suppress(OSError):
        os.write(2, f"{ENDED_UNSAVED}\n".encode())
    os._exit(1)


def exit_with_parent() -> None:
    """End this program when the one that holds the other end of its standard input exits, however it does."""

    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
