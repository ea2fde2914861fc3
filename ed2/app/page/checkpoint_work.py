"""Exporting a checkpoint or drawing with it, in a thread of this program. Needs no torch until it begins."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ed2.app.phases import RefusedError
from ed2.disk import plain_reason
from ed2.errors import Ed2Error, StopRequested

STOPPED = "Stopped. Nothing was written."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkStatus:
    """Progress or outcome.

    Attributes:
        doing: what is done, such as *Export of NAME*.
        text: progress, or why it failed.
        path: the single file or the image.
        exported: the checkpoint of a single file; None for an image.
    """

    state: Literal["idle", "running", "done", "failed"] = "idle"
    doing: str = ""
    text: str = ""
    path: Path | None = None
    exported: Path | None = None


Tell = Callable[[str], None]
Work = Callable[[Tell], Path]


class CheckpointWork:
    """One piece of work at a time; every method may be called from any thread."""

    def __init__(self, is_training: Callable[[], bool], read_libraries: Callable[[], None]) -> None:
        self._is_training, self._read_libraries = is_training, read_libraries
        self._lock = threading.Lock()
        self._shown = WorkStatus()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def shown(self) -> WorkStatus:
        """What the page shows."""
        return self._shown

    def export(self, checkpoint: Path) -> None:
        """Write the single file of a checkpoint. Raises RefusedError."""

        def work(tell: Tell) -> Path:
            from ed2.app.checkpoint_use import export_single_file

            return export_single_file(checkpoint, tell)

        self._start(WorkStatus("running", f"Single file of {checkpoint.name}", exported=checkpoint), work)

    def draw(self, checkpoint: Path, text: str, seed: int, cfg: float) -> None:
        """Draw an image of a prompt. Raises RefusedError."""

        def work(tell: Tell) -> Path:
            from ed2.app.checkpoint_use import draw_prompt

            return draw_prompt(checkpoint, text, seed, cfg, tell)

        self._start(WorkStatus("running", f"Image by {checkpoint.name}"), work)

    def stop(self) -> None:
        """Stop it, if there is any."""
        self._stop.set()

    def close(self) -> None:
        """Stop it and wait for it."""
        self.stop()
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(1.0)  # without a limit, Windows would not react to Ctrl-C

    def _start(self, begun: WorkStatus, work: Work) -> None:
        with self._lock:
            if self._is_training():
                raise RefusedError("Not now", "a run is in progress", "Stop it first, or wait until it ends.")
            if self._shown.state == "running":
                raise RefusedError("Not now", f"in progress: {self._shown.doing}", "Wait until it ends.")
            self._stop.clear()
            self._shown = replace(begun, text="Loading libraries.")
            self._thread = threading.Thread(target=self._run, args=(work,), name="checkpoint")
            self._thread.start()

    def _run(self, work: Work) -> None:
        try:
            self._read_libraries()
            self._end("done", path=work(self._tell))
        except StopRequested:
            self._end("failed", STOPPED)
        except Ed2Error as error:
            self._end("failed", str(error))
        except (OSError, MemoryError, RuntimeError) as error:
            logger.info("Work on a checkpoint failed.", exc_info=True)
            self._end("failed", f"It failed: {plain_reason(error)[:300]}.")
        except Exception as error:  # in a thread nobody else would see it, and the buttons would stay disabled
            logger.exception("Work on a checkpoint failed.")
            self._end("failed", f"It failed: {type(error).__name__}: {error}.")

    def _end(self, state: Literal["done", "failed"], text: str = "", path: Path | None = None) -> None:
        self._shown = replace(self._shown, state=state, text=text, path=path)

    def _tell(self, text: str) -> None:
        """Show the progress. Raises StopRequested."""
        self._shown = replace(self._shown, text=text)
        if self._stop.is_set() or self._is_training():
            raise StopRequested
