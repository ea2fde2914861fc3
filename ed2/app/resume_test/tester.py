"""The resume test of the page: one at a time, in a thread, beside no run."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ed2.app.phases import RefusedError
from ed2.app.resume_test.run import run_resume_test
from ed2.errors import Ed2Error, StopRequested

logger = logging.getLogger(__name__)

ENDED_BY_A_RUN = "The test ended because a run was started."
STOPPED = "The test was stopped."


@dataclass(frozen=True)
class TestStatus:
    """Progress or outcome of a test.

    Attributes:
        state: idle before the first test; same or different when it is done; failed if the test itself failed.
        text: for the user.
    """

    state: Literal["idle", "running", "same", "different", "failed"] = "idle"
    text: str = ""


class ResumeTester:
    """Holds the test of this program; every method may be called from any thread."""

    def __init__(self, is_training: Callable[[], bool]) -> None:
        self._is_training = is_training
        self._lock = threading.Lock()
        self._shown = TestStatus()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def shown(self) -> TestStatus:
        """What the page shows."""
        return self._shown

    def start(self, values: Mapping[str, object]) -> None:
        """Begin a test with these flat settings.

        Raises:
            RefusedError: a run or a test is in progress.
        """
        with self._lock:
            if self._is_training():
                raise RefusedError("Cannot test now", "a run is in progress", "Stop it first, or wait until it ends.")
            if self._shown.state == "running":
                raise RefusedError("Cannot test now", "a test is in progress", "")
            self._stop.clear()
            self._shown = TestStatus("running", "Starting the test.")
            self._thread = threading.Thread(target=self._work, args=(dict(values),), name="resume test")
            self._thread.start()

    def stop(self) -> None:
        """Stop the test, if there is one; its files are removed."""
        self._stop.set()

    def close(self) -> None:
        """Stop the test and wait for it."""
        self.stop()
        self.wait()

    def wait(self) -> None:
        """Wait until no test is in progress."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(1.0)  # without a limit, Windows would not react to Ctrl-C

    def _work(self, values: Mapping[str, object]) -> None:
        try:
            result = run_resume_test(values, None, tell=self._tell, should_stop=self._should_stop)
        except StopRequested:
            self._shown = TestStatus("failed", STOPPED if self._stop.is_set() else ENDED_BY_A_RUN)
        except (Ed2Error, OSError) as error:
            self._shown = TestStatus("failed", str(error))
        except Exception as error:  # in a thread nobody else would see it, and the button would stay disabled
            logger.exception("The resume test failed.")
            self._shown = TestStatus(
                "failed", f"The test failed with an error of its own: {type(error).__name__}: {error}."
            )
        else:
            self._shown = TestStatus("same" if result.is_same else "different", result.as_text())

    def _tell(self, text: str) -> None:
        self._shown = replace(self._shown, text=text)

    def _should_stop(self) -> bool:
        return self._stop.is_set() or self._is_training()
