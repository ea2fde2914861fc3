"""A run from its settings to its end. The command line and the page both call `run_training`."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ed2.app.build import build
from ed2.app.execute import execute, failed, make_rollback
from ed2.app.faults import FailedUpdates
from ed2.app.jobs import MainContext, make_saver
from ed2.app.ranks.message import as_message
from ed2.app.reporters.recording import recording
from ed2.app.resolve import resolve
from ed2.app.resuming import complete_save
from ed2.app.run_spec import RunSpec
from ed2.app.runs.folder import RunFolder, make_run_folder, writable
from ed2.checkpoint.background import BackgroundSaver
from ed2.checkpoint.run_lock import only_trainer
from ed2.errors import CheckpointError, FinishedError, Problem, UpdateFailedError
from ed2.events import CheckpointChosen, EventBus, PhaseChanged, RunEnded
from ed2.models.compute import deterministic, quiet_libraries
from ed2.models.memory import release_memory
from ed2.ranks.base import OneRank, Ranks
from ed2.text import counted
from ed2.training.controls import Controls
from ed2.training.state import SAMPLES, TrainState


def run_training(
    flags: Mapping[str, object],
    config: Path | None,
    *,
    bus: EventBus,
    controls: Controls,
    ranks: Ranks | None = None,
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
    ranks = ranks or OneRank()
    flags = {**flags, "num_processes": ranks.size}
    spec = resolve(flags, config, bus=bus, controls=controls, ranks=ranks)
    with _opened_folder(spec, bus) as (folder, saver):
        failures = FailedUpdates()
        continued = spec.continued.state if spec.continued else None
        while True:
            exact = deterministic(spec.machine.device, is_wanted=spec.settings.memory.deterministic)
            with recording(bus, folder.path, continued), exact:
                context = MainContext.of(spec, folder.path, saver, bus, controls, ranks=ranks)
                outcome = _train(spec, context, failures, started)
                if isinstance(outcome, RunEnded):
                    bus.emit(outcome)
                    return outcome
            spec = outcome
            continued = spec.checkpoint.state if spec.checkpoint else TrainState(cut_short=[SAMPLES])
            bus.emit(CheckpointChosen(continued.step, folder.path))
            release_memory(spec.machine.device)


@contextmanager
def _opened_folder(spec: RunSpec, bus: EventBus) -> Iterator[tuple[RunFolder, BackgroundSaver]]:
    """The locked folder of the run, with the files that describe the run, and its saver.

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
        yield folder, BackgroundSaver(saver, bus)


def _train(spec: RunSpec, context: MainContext, failures: FailedUpdates, started: float) -> RunEnded | RunSpec:
    """The end of the run, or the spec to train again with after a failed update."""
    context.bus.emit(PhaseChanged(0, "preparing", f"reading the model {spec.base.name}"))
    try:
        with context.ranks.leading(lambda: as_message(spec, context)):
            run = build(spec, context)
            return execute(run, spec, context, started)
    except UpdateFailedError as error:
        retry = None
        if context.ranks.is_whole:
            retry = failures.retry(error, spec, make_rollback(context), context.state.step)
        return retry or failed(error, spec, context, started)
    except Exception as error:  # the folder exists, so this end is reported like any other
        return failed(error, spec, context, started)


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
