"""What a run tells goes into its folder for as long as it lasts."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ed2.app.reporters import JsonlReporter, LogReporter, TensorBoardReporter, cut_back
from ed2.app.reporters.jsonl import EVENTS_NAME
from ed2.events import EventBus, SamplesMade
from ed2.sampling.job import SAMPLES
from ed2.sampling.pictures import SAMPLES_LIST
from ed2.training.state import TrainState

logger = logging.getLogger(__name__)


@contextmanager
def recording(bus: EventBus, run_dir: Path, continued: TrainState | None) -> Iterator[None]:
    """Write a run's events into its folder; what an earlier part wrote after `continued` is taken out."""
    if continued is not None:
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
