"""One run from its start to its end, whatever the end is. The command line and the page both call `run_training`."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ed2.app.build import Builder, open_model
from ed2.app.checks.space import require_room
from ed2.app.completing import complete_save
from ed2.app.images.faults import ImageFaults
from ed2.app.images.scanning import TimeLeft, scan_dataset
from ed2.app.images.validating import ValidationSplit, split_off_validation
from ed2.app.preflight import model_sizes, require_parts, require_writable
from ed2.app.reporters.recording import recording
from ed2.app.runs.folder import Description, Machine, circumstances, describe_run, make_run_folder, writable
from ed2.app.session import Session
from ed2.app.start import Start, weigh
from ed2.checkpoint.run_lock import only_trainer
from ed2.data.reading import Outline
from ed2.errors import CheckpointError, FinishedError, Problem
from ed2.events import EventBus, PhaseChanged, RunEnded, Warned
from ed2.models.compute import deterministic, quiet_libraries
from ed2.settings.schema import Settings
from ed2.text import counted
from ed2.training.state import Controls

PROGRESS_SECONDS = 5.0
FOLDER_WAS_DELETED = (
    "The run's folder {} was deleted, or files of it: it is written again as far as this program knows it, and the run "
    "can be continued from the next checkpoint. What was logged, drawn and saved before is gone."
)


def run_training(start: Start, *, bus: EventBus, controls: Controls) -> RunEnded:
    """Train from `start` to the end, a stop, or a failure; the last event is returned and was emitted.

    Raises:
        Ed2Error: the run cannot begin. Once it has begun, every end is a `RunEnded`.
    """
    began = time.monotonic()
    quiet_libraries()
    require_parts(start.settings)
    require_writable(start.settings)
    require_room(start.settings, model_sizes(start.settings))
    machine = Machine.of(start.settings)
    source = open_model(start)
    bus.emit(PhaseChanged(0, "preparing", "reading the images"))
    apart = _read_images(start.settings, bus, controls)
    dataset = apart.training
    start = weigh(start, dataset, circumstances(machine))
    if start.is_finished and not start.same_folder:
        raise _finished(start)
    with writable(Path(start.settings.logging.logdir)):
        run_dir = make_run_folder(start)
    with writable(run_dir), only_trainer(run_dir) as renew_lock:
        _require_still_newest(start)
        builder = Builder(start, dataset, run_dir, machine, bus, controls, apart, ImageFaults(bus))
        if start.checkpoint and start.same_folder:
            complete_save(start.checkpoint, builder.saver(), source)
        if start.is_finished and not start.lacks_end:
            raise _finished(start)
        description = describe_run(run_dir, start, dataset, machine)
        builder = replace(builder, before_save=_upkeep(run_dir, description, renew_lock, bus))
        continued = start.checkpoint.state if start.checkpoint and start.same_folder else None
        exact = deterministic(machine.device, is_wanted=start.settings.memory.deterministic)
        with recording(bus, run_dir, continued), exact:
            session = Session(builder, began)
            ended = session.end_of(session.work)
            bus.emit(ended)
    return ended


def _require_still_newest(start: Start) -> None:
    """See that no other program has trained the run since its checkpoint was chosen. Raises CheckpointError."""
    checkpoint = start.checkpoint
    if checkpoint and start.same_folder and not checkpoint.is_newest:
        what, why = f"The run {checkpoint.run_dir.name} has gone on meanwhile", "another program has trained it."
        raise CheckpointError(what, why, "Start again: it then continues from the checkpoint that is the newest now.")


def _upkeep(
    run_dir: Path, description: Description, renew_lock: Callable[[], None], bus: EventBus
) -> Callable[[int], None]:
    """What sees before each save that the run's folder says what it is, and is locked."""

    def before_save(step: int) -> None:
        if description.write_missing(run_dir):
            renew_lock()
            bus.emit(Warned(step, FOLDER_WAS_DELETED.format(run_dir)))

    return before_save


def _read_images(settings: Settings, bus: EventBus, controls: Controls) -> ValidationSplit:
    """Read the images and set some apart, telling every few seconds how far it is."""
    told_at, time_left = time.monotonic(), TimeLeft()

    def tell(done: int, total: int) -> None:
        nonlocal told_at
        text = time_left.images(done, total) if total else ""
        if text and time.monotonic() - told_at > PROGRESS_SECONDS:
            told_at = time.monotonic()
            bus.emit(PhaseChanged(0, "preparing", text))

    def outline(found: Outline) -> None:
        bus.emit(PhaseChanged(0, "preparing", str(found)))

    def stopping() -> bool:
        controls.obey_stop()  # leaves with the signal that asked for it
        return False

    dataset = scan_dataset(settings, progress=tell, should_stop=stopping, on_outline=outline)
    apart = split_off_validation(settings, dataset, should_stop=stopping)
    controls.obey_stop()
    return apart


def _finished(start: Start) -> FinishedError:
    epochs = start.settings.run.max_epochs
    what = f"{start.base.name} has all its {counted(epochs, 'epoch')}."
    fix = f"Raise max_epochs to train on: --max_epochs {epochs + 1}."
    return FinishedError("There is nothing left to train:", [Problem("max_epochs", what, fix)])
