"""Running the queue: each run from its start or its newest checkpoint; one that fails does not stop the others."""

import logging
from collections.abc import Callable, Mapping

from ed2.app.queue.store import QueuedRun, QueueState, RunQueue
from ed2.app.reporters.describe import describe_end
from ed2.errors import Ed2Error, FinishedError, StopRequested
from ed2.events import Event, RunEnded, RunStarted

logger = logging.getLogger(__name__)

Observer = Callable[[Event], None]
Train = Callable[[Mapping[str, object], Observer], RunEnded]
"""Trains with flat settings and tells the observer everything that happens."""
ALREADY_DONE = "all epochs were done already"
BEFORE_FIRST_STEP = "stopped before the first step"


def run_next(queue: RunQueue, train: Train) -> QueueState | None:
    """Run the next run of a queue that this program alone runs.

    Returns:
        How it ended; None if no run waits.

    Raises:
        OSError: the queue cannot be written.
    """
    run = queue.take()
    if run is None:
        return None
    state, text = _outcome(queue, run, train)
    queue.ended(run.number, state, text)
    return state


def _outcome(queue: RunQueue, run: QueuedRun, train: Train) -> tuple[QueueState, str]:
    """How a run ended, and why."""

    def watch(event: Event) -> None:
        if isinstance(event, RunStarted):
            queue.began(run.number, event.run_dir)

    try:
        ended = train(queue.start_values(run), watch)
    except FinishedError:
        return "done", ALREADY_DONE
    except StopRequested:
        return "stopped", BEFORE_FIRST_STEP
    except Ed2Error as error:
        return "failed", str(error)
    except Exception as error:
        logger.exception("Run %d of the queue could not start.", run.number)
        return "failed", f"{type(error).__name__}: {error}"
    return ended.phase, describe_end(ended)
