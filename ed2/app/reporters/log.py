"""`run.log`: the events of a run in plain text, with times."""

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ed2.app.reporters.describe import lines_of
from ed2.app.reporters.growing import GrowingFile
from ed2.errors import LogWriteError
from ed2.events import Event, StepDone, Warned
from ed2.text import as_record

LOG_NAME = "run.log"
PROGRAM = "ed2"
PYTHON_WARNINGS = "py.warnings"
TIME = "%Y-%m-%dT%H:%M:%S%z"

logger = logging.getLogger(__name__)


class LogHandler(logging.Handler):
    """Writes a log; a full disk is reported on the page instead of by tracebacks in the terminal."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = GrowingFile(path, f"The log {path.name}")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; one that cannot be written now is written later, one that cannot be formatted is dropped."""
        with suppress(LogWriteError, TypeError, ValueError):
            self._file.write(f"{as_record(self.format(record))}\n".encode(errors="backslashreplace"))

    def finish(self) -> str:
        """Close the file; says what was lost."""
        super().close()
        return self._file.close()


@dataclass
class LogReporter:
    """Writes events, log messages and Python warnings to `run.log`, from its creation until `close`."""

    run_dir: Path
    _handler: LogHandler = field(init=False, repr=False)
    _level: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._handler = LogHandler(self.run_dir / LOG_NAME)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", TIME))
        program = logging.getLogger(PROGRAM)
        self._level = program.level
        program.setLevel(logging.INFO)
        for name in (PROGRAM, PYTHON_WARNINGS):
            logging.getLogger(name).addHandler(self._handler)
        logging.captureWarnings(True)

    def __call__(self, event: Event) -> None:
        """Write an event."""
        if isinstance(event, StepDone):
            return
        level = logging.WARNING if isinstance(event, Warned) else logging.INFO
        for text in lines_of(event):
            logger.log(level, "%s", text)

    def close(self) -> str:
        """Restore the loggers and close the file; says what was lost."""
        logging.captureWarnings(False)
        for name in (PROGRAM, PYTHON_WARNINGS):
            logging.getLogger(name).removeHandler(self._handler)
        logging.getLogger(PROGRAM).setLevel(self._level)
        return self._handler.finish()
