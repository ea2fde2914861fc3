"""Work that the page does in a thread of this program: one piece at a time, never beside a run."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error, RefusedError, StopRequested

FIX = "Stop it first, or wait until it ends."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskStatus:
    """How far a piece of work is, or what came of it.

    Attributes:
        state: idle before the first one, running, failed, or how it ended.
        text: progress, outcome, or why it failed.
    """

    state: str = "idle"
    text: str = ""


S = TypeVar("S", bound=TaskStatus)


class BackgroundTask(Generic[S]):
    """Holds the work of one kind; every method may be called from any thread. A run that starts ends it."""

    def __init__(self, name: str, idle: S, is_training: Callable[[], bool], *, at_stop: str = "") -> None:
        """Hold it.

        Args:
            name: of the work, with its article: "a test".
            idle: what the page is shown before the first one.
            is_training: whether a run is in progress.
            at_stop: a sentence on what becomes of work that is stopped.
        """
        self._name, self._idle, self._is_training, self._at_stop = name, idle, is_training, at_stop
        noun = name.rpartition(" ")[2]
        self._subject = f"The {noun}" if noun != name else noun.capitalize()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.shown = idle

    def begin(self, what: str, work: Callable[[], S], begun: S | None = None) -> None:
        """Begin; what the work returns is shown at its end.

        Args:
            what: is refused, such as "Cannot test now".
            work: calls `tell` often.
            begun: what is known of it already.

        Raises:
            RefusedError: a run or such work is in progress.
        """
        with self._lock:
            for name, is_busy in (("a run", self._is_training()), (self._name, self.shown.state == "running")):
                if is_busy:
                    raise RefusedError(what, f"{name} is in progress", FIX)
            self._stop.clear()
            self._show("running", "Starting.", begun or self._idle)
            self._thread = threading.Thread(target=self._run, args=(work,), name=self._name)
            self._thread.start()

    def tell(self, text: str) -> None:
        """Show the progress. Raises StopRequested."""
        if self.should_stop():
            raise StopRequested
        self._show("running", text)

    def should_stop(self) -> bool:
        """Whether the work is to end without a result."""
        return self._stop.is_set() or self._is_training()

    def stop(self) -> None:
        """Stop the work, if there is any."""
        self._stop.set()

    def close(self) -> None:
        """Stop the work and wait for it."""
        self.stop()
        self.wait()

    def wait(self) -> None:
        """Wait until no work is in progress."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(1.0)  # without a limit, Windows would not react to Ctrl-C

    def _show(self, state: str, text: str, before: S | None = None) -> None:
        self.shown = replace(before or self.shown, state=state, text=text)

    def _run(self, work: Callable[[], S]) -> None:
        try:
            self.shown = work()
        except StopRequested:
            reason = "was stopped" if self._stop.is_set() else "ended because a run was started"
            self._show("failed", f"{self._subject} {reason}. {self._at_stop}".strip())
        except Ed2Error as error:
            self._show("failed", str(error))
        except (OSError, MemoryError, RuntimeError) as error:
            logger.info("%s failed.", self._subject, exc_info=True)
            self._show("failed", f"{self._subject} failed: {plain_reason(error)[:300]}.")
        except Exception as error:  # in a thread nobody else would see it, and the button would stay disabled
            logger.exception("%s failed.", self._subject)
            self._show("failed", f"{self._subject} itself failed: {type(error).__name__}: {error}.")
