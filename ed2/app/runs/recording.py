"""What a run tells goes into its folder for as long as it lasts."""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ed2.app.reporters import JsonlReporter, LogReporter, TensorBoardReporter, cut_back
from ed2.app.reporters.jsonl import EVENTS_NAME
from ed2.app.reporters.log import LOG_NAME
from ed2.disk import plain_reason, rename
from ed2.events import EventBus, SamplesMade, Warned
from ed2.sampling.images import SAMPLES_LIST
from ed2.sampling.job import SAMPLES
from ed2.training.state import TrainState

logger = logging.getLogger(__name__)


@contextmanager
def recording(bus: EventBus, run_dir: Path, continued: TrainState | None) -> Iterator[None]:
    """Write a run's events into its folder; what an earlier part wrote after `continued` is taken out.

    Raises:
        OSError: the folder cannot be written.
    """
    if continued is not None:
        for name in (EVENTS_NAME, SAMPLES_LIST, LOG_NAME):
            if told := _set_aside_unusable(run_dir / name):
                bus.emit(Warned(continued.step, told))
        are_drawn_again = SAMPLES in continued.cut_short
        cut_back(run_dir / EVENTS_NAME, continued.step, without=SamplesMade.__name__ if are_drawn_again else None)
        cut_back(run_dir / SAMPLES_LIST, continued.step - are_drawn_again)
    purge_step = None if continued is None else continued.step + 1
    observers = (LogReporter(run_dir), JsonlReporter(run_dir), TensorBoardReporter(run_dir, purge_step))
    for observer in observers:
        bus.subscribe(observer)
    try:
        yield
    finally:
        for observer in reversed(observers):  # the log last: it tells of the others
            bus.unsubscribe(observer)
            if lost := observer.close():
                logger.error("%s", lost)


def _set_aside_unusable(log: Path) -> str:
    """Rename what cannot be added to, as a file that belongs to another user; go on with a copy, where it is readable.

    Returns:
        What was done, for people; nothing where a log is as it should be or not there.

    Raises:
        OSError: it cannot be renamed.
    """
    try:
        with log.open("r+b"):
            return ""
    except FileNotFoundError:
        return ""
    except OSError as error:
        reason = plain_reason(error)
    other = log.with_name(f"{log.name}.unusable-{time.time_ns()}")
    rename(log, other)
    try:
        shutil.copyfile(other, log)
    except OSError:
        begins = "a new one begins"
    else:
        begins = "the run goes on with a copy"
    return f"{log.name} of the run cannot be added to ({reason}): it is now named {other.name}, and {begins}."
