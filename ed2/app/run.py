"""A run from its settings to its end. The command line and the page both call `run_training`."""

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ed2.app.build import build
from ed2.app.execute import execute, failed, make_rollback
from ed2.app.faults import spec_to_retry
from ed2.app.jobs import MainContext, make_saver
from ed2.app.reporters.image_losses import IMAGE_LOSSES_FILE, ImageLossReporter
from ed2.app.reporters.jsonl import EVENTS_NAME, JsonlReporter, cut_back
from ed2.app.reporters.log import LOG_NAME, LogReporter
from ed2.app.reporters.tensorboard import TensorBoardReporter
from ed2.app.resolve import resolve
from ed2.app.resuming import complete_save
from ed2.app.run_spec import RunSpec, as_message
from ed2.app.runs.folder import RunFolder, make_run_folder, writable
from ed2.checkpoint.background import BackgroundSaver
from ed2.checkpoint.run_lock import only_trainer
from ed2.disk import rename
from ed2.disk_errors import plain_reason
from ed2.errors import CheckpointError, FinishedError, Problem, UpdateFailedError
from ed2.events import CheckpointChosen, EventBus, PhaseChanged, RunEnded, SamplesMade, Warned
from ed2.models.compute import quiet_libraries
from ed2.models.memory import release_memory
from ed2.ranks.base import Ranks
from ed2.sampling.images import SAMPLES_LIST
from ed2.text import counted
from ed2.training.controls import Controls
from ed2.training.state import IMAGE_LOSSES, SAMPLES, TrainState

logger = logging.getLogger(__name__)


def run_training(
    flags: Mapping[str, object], config: Path | None, *, bus: EventBus, controls: Controls, ranks: Ranks | None = None
) -> RunEnded:
    """Train to the end, a stop, or a failure; returns the last event, which was emitted.

    Args:
        flags: flat settings of the command line or the page; they win.
        config: a preset, or the settings of an earlier run.
        bus: gets everything that happens.
        controls: may request a stop, a pause, a checkpoint or samples.
        ranks: the processes that train it, of which this is the first; None for this one alone.

    Raises:
        Ed2Error: the run cannot start. Once it has started, every end is a `RunEnded`.
        StopRequested: a stop was requested before it had started.
    """
    started = time.monotonic()
    quiet_libraries()
    ranks = ranks or Ranks()
    flags = {**flags, "num_processes": ranks.size}
    spec = resolve(flags, config, bus=bus, controls=controls, ranks=ranks)
    with _opened_folder(spec, bus) as saver:
        run_dir = saver.saver.run_dir
        failures: set[tuple[str, int]] = set()
        continued = spec.continued.state if spec.continued else None
        while True:
            with recording(bus, run_dir, continued), spec.machine.computing(spec.settings.memory):
                context = MainContext.of(spec, saver, controls, ranks, started)
                outcome = _train(spec, context, failures)
                if isinstance(outcome, RunEnded):
                    bus.emit(outcome)
                    return outcome
            spec = outcome
            continued = spec.checkpoint.state if spec.checkpoint else TrainState(cut_short=[SAMPLES])
            bus.emit(CheckpointChosen(continued.step, run_dir))
            release_memory(spec.machine.device)


@contextmanager
def _opened_folder(spec: RunSpec, bus: EventBus) -> Iterator[BackgroundSaver]:
    """Open and lock the folder of the run, and describe the run there; yields what saves the run into it.

    Raises:
        Ed2Error: it cannot be written, another program trains there, or nothing is left to train.
    """
    if spec.is_finished and not spec.same_folder:
        raise _finished(spec)
    with writable(Path(spec.settings.logging.logdir)):
        run_dir = make_run_folder(spec)
    with writable(run_dir), only_trainer(run_dir) as renew_lock:
        _require_still_newest(spec)
        folder = RunFolder(run_dir, bus, renew_lock)
        saver = make_saver(spec, run_dir, bus, folder.restore_missing)
        if spec.continued:
            complete_save(spec.continued, saver, spec.source)
        if spec.is_finished and not spec.needs_finishing:
            raise _finished(spec)
        folder.describe(spec)
        yield BackgroundSaver(saver)


def _train(spec: RunSpec, context: MainContext, failures: set[tuple[str, int]]) -> RunEnded | RunSpec:
    """The end of the run, or the spec to train again with after a failed update."""
    context.bus.emit(PhaseChanged(0, "preparing", "reading the base model"))
    try:
        with context.ranks.leading(lambda: as_message(spec, context.run_dir, context.state)):
            run = build(spec, context)
            return execute(run, spec, context)
    except UpdateFailedError as error:
        retry = None
        if context.ranks.is_whole:
            retry = spec_to_retry(error, spec, make_rollback(context), context.state.step, failures)
        return retry or failed(error, spec, context)
    except Exception as error:  # the folder exists, so this end is reported like any other
        return failed(error, spec, context)


def _require_still_newest(spec: RunSpec) -> None:
    """Check that no other program has trained the run since its checkpoint was chosen. Raises CheckpointError."""
    checkpoint = spec.continued
    if checkpoint and not checkpoint.is_newest:
        what, why = f"The run {checkpoint.run_dir.name} has moved on", "another program has trained it in the meantime."
        raise CheckpointError(what, why, "Start again to continue from its newest checkpoint.")


def _finished(spec: RunSpec) -> FinishedError:
    epochs = spec.settings.run.max_epochs
    # The weights of a LoRA are read from its base model, which has completed nothing.
    trained = spec.checkpoint.path if spec.checkpoint else spec.base
    what = f"{trained.name} has completed its {counted(epochs, 'epoch')}."
    fix = f"Raise max_epochs to keep training: --max_epochs {epochs + 1}."
    return FinishedError("There is nothing left to train:", [Problem("max_epochs", what, fix)])


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
