"""The resume test of the page: one at a time, in a thread, beside no run."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ed2.app.proof.prove import prove
from ed2.app.service import RefusedError
from ed2.errors import Ed2Error, StopRequested

logger = logging.getLogger(__name__)

ENDED_BY_A_RUN = "The test was ended, since a run was started."
STOPPED = "The test was stopped."


@dataclass(frozen=True)
class ShownTest:
    """How far a test is.

    Attributes:
        state: idle before the first one; same or different when it is done; failed where it could not be done.
        text: for people.
    """

    state: Literal["idle", "running", "same", "different", "failed"] = "idle"
    text: str = ""


class ResumeTester:
    """Holds the test of this program; every method may be called from any thread."""

    def __init__(self, is_training: Callable[[], bool]) -> None:
        self._is_training = is_training
        self._lock = threading.Lock()
        self._shown = ShownTest()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def shown(self) -> ShownTest:
        """What pages show."""
        return self._shown

    def start(self, values: Mapping[str, object]) -> None:
        """Begin a test with these flat settings.

        Raises:
            RefusedError: a run or a test is going on.
        """
        with self._lock:
            if self._is_training():
                raise RefusedError("Cannot test now", "a run is going on", "Stop it first, or wait for its end.")
            if self._shown.state == "running":
                raise RefusedError("Cannot test now", "a test is going on", "")
            self._stop.clear()
            self._shown = ShownTest("running", "The test begins.")
            self._thread = threading.Thread(target=self._work, args=(dict(values),), name="resume test")
            self._thread.start()

    def stop(self) -> None:
        """End the test, if there is one; what it has written is removed."""
        self._stop.set()

    def close(self) -> None:
        """End the test and wait for it."""
        self.stop()
        self.wait()

    def wait(self) -> None:
        """Wait until no test is going on."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(1.0)  # on Windows Ctrl-C is not heard while a thread is waited for without an end

    def _work(self, values: Mapping[str, object]) -> None:
        try:
            proof = prove(values, None, tell=self._tell, should_stop=self._should_stop)
        except StopRequested:
            self._shown = ShownTest("failed", STOPPED if self._stop.is_set() else ENDED_BY_A_RUN)
        except (Ed2Error, OSError) as error:
            self._shown = ShownTest("failed", str(error))
        except Exception as error:  # of a thread nobody else would hear of it, and the button would stay off
            logger.exception("The resume test failed.")
            self._shown = ShownTest("failed", f"The test failed itself: {type(error).__name__}: {error}.")
        else:
            self._shown = ShownTest("same" if proof.is_same else "different", proof.as_text())

    def _tell(self, text: str) -> None:
        self._shown = replace(self._shown, text=text)

    def _should_stop(self) -> bool:
        return self._stop.is_set() or self._is_training()
