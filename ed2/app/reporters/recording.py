"""Recording a run into its folder for as long as it lasts: `run.log`, `events.jsonl` and TensorBoard's file."""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ed2.app.reporters.image_losses import IMAGE_LOSSES_FILE, ImageLossReporter
from ed2.app.reporters.jsonl import EVENTS_NAME, JsonlReporter, cut_back
from ed2.app.reporters.log import LOG_NAME, LogReporter
from ed2.app.reporters.tensorboard import TensorBoardReporter
from ed2.disk import plain_reason, rename
from ed2.events import EventBus, SamplesMade, Warned
from ed2.sampling.images import SAMPLES_LIST
from ed2.training.state import IMAGE_LOSSES, SAMPLES, TrainState

logger = logging.getLogger(__name__)


@contextmanager
def recording(bus: EventBus, run_dir: Path, continued: TrainState | None) -> Iterator[None]:
    """Write a run's events into its folder, after removing what was written there later than `continued`.

    Raises:
        OSError: the folder cannot be written.
    """
    purge_step = None
    if continued is not None:
        _cut_back_logs(bus, run_dir, continued)
        purge_step = continued.step + 1
    observers = (
        LogReporter(run_dir),
        JsonlReporter(run_dir),
        TensorBoardReporter(run_dir, purge_step),
        ImageLossReporter(run_dir),
    )
    for observer in observers:
        bus.subscribe(observer)
    try:
        yield
    finally:
        for observer in reversed(observers):  # the log last: it reports what the others lost
            bus.unsubscribe(observer)
            if lost := observer.close():
                logger.error("%s", lost)


def _cut_back_logs(bus: EventBus, run_dir: Path, continued: TrainState) -> None:
    for name in (EVENTS_NAME, SAMPLES_LIST, LOG_NAME, IMAGE_LOSSES_FILE):
        if note := _replace_unwritable(run_dir / name):
            bus.emit(Warned(continued.step, note))
    are_drawn_again = SAMPLES in continued.cut_short
    cut_back(run_dir / EVENTS_NAME, continued.step, without=SamplesMade.__name__ if are_drawn_again else None)
    cut_back(run_dir / SAMPLES_LIST, continued.step - are_drawn_again)
    cut_back(run_dir / IMAGE_LOSSES_FILE, continued.step - (IMAGE_LOSSES in continued.cut_short))


def _replace_unwritable(log: Path) -> str:
    """Rename a log that cannot be appended to, such as another user's, and continue with a copy if it can be read.

    Returns:
        What was done, in a sentence; empty where the log is writable or does not exist.

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
    renamed = log.with_name(f"{log.name}.unusable-{time.time_ns()}")
    rename(log, renamed)
    try:
        shutil.copyfile(renamed, log)
    except OSError:
        then = "the run starts a new one"
    else:
        then = "the run continues with a copy"
    return f"The run's {log.name} cannot be written ({reason}). It was renamed to {renamed.name}, and {then}."
