"""What a run tells goes into its folder for as long as it lasts."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ed2.app.reporters import JsonlReporter, LogReporter, TensorBoardReporter, cut_back
from ed2.app.reporters.jsonl import EVENTS_NAME
from ed2.events import EventBus
from ed2.sampling.pictures import SAMPLES_LIST

logger = logging.getLogger(__name__)


@contextmanager
def recording(bus: EventBus, run_dir: Path, continued_at: int | None) -> Iterator[None]:
    """Write a run's events into its folder; what an earlier part wrote after step `continued_at` is taken out."""
    if continued_at is not None:
        for name in (EVENTS_NAME, SAMPLES_LIST):
            cut_back(run_dir / name, continued_at)
    purge_step = None if continued_at is None else continued_at + 1
    observers = (LogReporter(run_dir), JsonlReporter(run_dir), TensorBoardReporter(run_dir, purge_step))
    for observer in observers:
        bus.subscribe(observer)
    try:
        yield
    finally:
        for observer in observers:
            bus.unsubscribe(observer)
            try:
                observer.close()
            except OSError as error:
                logger.error("The end of the %s could not be written: %s.", type(observer).__name__, error)
