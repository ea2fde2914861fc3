"""How a checkpoint is resumed: in its run's folder or a new one, and what its run left unfinished."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from ed2.app.images.scanning import TimeLeft
from ed2.app.reporters.jsonl import EVENTS_NAME, read_events
from ed2.app.run_settings import run_settings, saved_settings
from ed2.checkpoint.identity import images_of
from ed2.checkpoint.resume import Checkpoint
from ed2.checkpoint.saver import Saver
from ed2.data.example import Dataset
from ed2.disk import why_not_writable
from ed2.errors import printable
from ed2.events import CheckpointSaved, EventBus, Phase, PhaseChanged, RunEnded, SamplesMade, ValidationDone
from ed2.models.base import ModelSource
from ed2.models.process import DiffusionProcess
from ed2.settings.schema import Settings
from ed2.small_files import lines_of, objects_in
from ed2.text import counted, file_size
from ed2.training.controls import Controls
from ed2.training.state import SAMPLES, VALIDATION

REPORT_SECONDS = 5.0
"""Interval of progress reports during a long preparation."""
RESUMABLE_SETTINGS = {
    "resume_ckpt",
    "model_dirs",
    "weights_only",
    "max_epochs",
    "data_root",
    "logdir",
    "log_step",
    "run_name",
    "decode_threads",
    "cache_text",
    "cache_dir",
    "save_ckpt_dir",
    "sample_prompts",
    "sample_steps",
    "ckpt_every_n_minutes",
    "save_every_n_epochs",
    "early_stop",
    "save_ckpts_from_n_epochs",
    "keep_last",
    "no_save_ckpt",
    "ckpt_format",
    "export_dtype",
    "author",
    "license",
    "save_full_precision",
    "no_prepend_last",
    "write_schedule",
    "every_n_epochs",
    "manual_data_root",
    "extra_manual_datasets",
    "stabilize_training_loss",
    "stabilize_split_proportion",
    "val_batch_size",
    "image_loss_every_n_epochs",
    "ema_sample_nonema_model",
    "ema_sample_ema_model",
}
"""Settings that may change within one run; changes of the images are detected from the images themselves."""


@dataclass
class VerifyProgress:
    """Reports the comparison of a checkpoint's bytes, which may take a minute, and ends it at a stop.

    Attributes:
        controls: may request the stop.
        step: of the run.
        phase: to report in the meantime.
        clock: seconds; for tests.
    """

    bus: EventBus
    controls: Controls
    step: int = 0
    phase: Phase = "preparing"
    clock: Callable[[], float] = time.monotonic
    _time_left: TimeLeft = field(default_factory=TimeLeft)
    _reported_at: float = 0.0

    def __call__(self, name: str, done: int, total: int) -> None:
        """Report the progress, at the beginning and every few seconds. Raises StopRequested."""
        self.controls.raise_if_stopping()
        if not done:
            self._time_left = TimeLeft(self.clock)
            self._time_left.suffix(done, total)
            self.say(f"comparing every byte of {name}, {file_size(total)}")
        elif self.clock() - self._reported_at >= REPORT_SECONDS:
            left = self._time_left.suffix(done, total)
            self.say(f"comparing {name}, {file_size(done)} of {file_size(total)}{left}")

    def say(self, text: str) -> None:
        """Report what is about to take long. Raises StopRequested."""
        self.controls.raise_if_stopping()
        self._reported_at = self.clock()
        self.bus.emit(PhaseChanged(self.step, self.phase, text))


@dataclass(frozen=True)
class Resume:
    """How a run starts from its checkpoint, as in a `RunSpec`."""

    checkpoint: Checkpoint | None = None
    same_folder: bool = False
    needs_finishing: bool = False
    notes: tuple[str, ...] = ()


def resolve_resume(
    checkpoint: Checkpoint | None, settings: Settings, dataset: Dataset, circumstances: Mapping[str, Any]
) -> Resume:
    """Decide, knowing the images, whether a run continues in its folder, in a new one, or starts at step 0.

    `circumstances` are what else the bytes of a result depend on, as recorded in checkpoints.
    """
    if checkpoint is None:
        return Resume()
    before = images_of(checkpoint.path, checkpoint.values)
    now = {example.name for example in dataset.examples}
    if before and not before & now:
        note = f"A new run from the weights of {checkpoint.path.name}: none of its images are in the dataset."
        return Resume(notes=(note,))
    notes = [f"Continues {checkpoint.path.name} at step {checkpoint.state.step}."]
    changes = _setting_changes(checkpoint, settings) + _image_changes(before, now)
    if not changes and dataset.fingerprint != checkpoint.values.get("fingerprint"):
        changes.append("images or captions were changed")
    if changes:
        listed = "; ".join(changes)
        notes.append(f"Continuing in a new folder; results will not be bit-identical: {listed}.")
        return Resume(_without_lost(checkpoint), notes=tuple(notes))
    return _choose_folder(checkpoint, settings, notes, _exactness_notes(checkpoint, settings, circumstances))


def _choose_folder(checkpoint: Checkpoint, settings: Settings, notes: list[str], exactness: list[str]) -> Resume:
    """Resume in the folder of the checkpoint's run, or in a new one if that is not possible."""
    if not checkpoint.is_in_its_run:
        obstacle = "this copy of a checkpoint is not in the folder of its run"
    elif not checkpoint.is_newest:
        notes.append("Continuing in a new folder: the run has later checkpoints, which are kept.")
        return Resume(checkpoint, notes=tuple(notes))
    elif reason := why_not_writable(checkpoint.run_dir):
        obstacle = f"{checkpoint.run_dir} cannot be written ({reason})"
    else:
        return _resume_in_folder(checkpoint, settings, [*notes, *exactness])
    return Resume(checkpoint, notes=(*notes, f"Continuing in a new folder: {obstacle}.", *exactness))


def _resume_in_folder(checkpoint: Checkpoint, settings: Settings, notes: list[str]) -> Resume:
    needs_finishing = _needs_finishing(checkpoint, settings.run.max_epochs)
    if needs_finishing:
        notes.append("All epochs are done; finishing the samples and files that were missing.")
    return Resume(
        _without_finished_jobs(checkpoint), same_folder=True, needs_finishing=needs_finishing, notes=tuple(notes)
    )


def _settings_then(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The settings when the checkpoint was saved; those of its run for a checkpoint too old to hold them."""
    return saved_settings(checkpoint.values) or run_settings(checkpoint.path, checkpoint.values).values


def _setting_changes(checkpoint: Checkpoint, settings: Settings) -> list[str]:
    before, changes = _settings_then(checkpoint), []
    for name, value in settings.flat().items():
        if name in before and name not in RESUMABLE_SETTINGS and before[name] != value:
            changes.append(f"{name} {_shown(before[name])} -> {_shown(value)}")
    return changes


def _shown(value: object) -> str:
    return "not set" if value is None else printable(str(value))


def _image_changes(before: set[str], now: set[str]) -> list[str]:
    added, gone = len(now - before), len(before - now)
    changes = []
    if before and added:
        changes.append(f"{counted(added, 'image')} added")
    if gone:
        changes.append(f"{counted(gone, 'image')} gone")
    return changes


def _exactness_notes(checkpoint: Checkpoint, settings: Settings, circumstances: Mapping[str, Any]) -> list[str]:
    """Why the run will not end with the same bytes, in sentences."""
    notes = []
    if other := _changed_circumstances(checkpoint.values, circumstances):
        notes.append(f"Results will not be bit-identical: {', '.join(other)}.")
    if _schedule_moves(checkpoint, settings):
        notes.append("The learning rate now follows the longer run, so results will not be bit-identical.")
    return notes


def _changed_circumstances(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed since the checkpoint was written: versions, device, threads."""
    changes = []
    for name, version in before.get("versions", {}).items():
        if version != now["versions"].get(name):
            changes.append(f"{name} {version} -> {now['versions'].get(name, 'missing')}")
    for name, text in (("device", "the device"), ("threads", "computing threads")):
        if name in before and before[name] != now[name]:
            changes.append(f"{text} {before[name]} -> {now[name]}")
    return changes


def _schedule_moves(checkpoint: Checkpoint, settings: Settings) -> bool:
    is_longer = _settings_then(checkpoint).get("max_epochs") != settings.run.max_epochs
    curves = {settings.optimizer.lr_scheduler, settings.text_encoder.text_encoder_lr_scheduler}
    return is_longer and (curves - {"constant", None} != set() or settings.ema.ema_strength_target is not None)


def _without_lost(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without the images that were found damaged: others may have taken their place."""
    state = checkpoint.state
    state.lost = {}
    return replace(checkpoint, values={**checkpoint.values, "state": state.as_dict()})


def _without_finished_jobs(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without the interrupted jobs that its run's log reports as finished since.

    A resumed run does them first. If it is stopped again before its next step, it is at the same checkpoint as before.
    """
    state = checkpoint.state
    if not state.cut_short:
        return checkpoint
    done = set()
    for _, event in read_events(checkpoint.run_dir):
        if event.step == state.step and isinstance(event, SamplesMade) and event.is_whole:
            done.add(SAMPLES)
        elif event.step == state.step and isinstance(event, ValidationDone):
            done.add(VALIDATION)
    state.cut_short = [job for job in state.cut_short if job not in done]
    return replace(checkpoint, values={**checkpoint.values, "state": state.as_dict()})


def _needs_finishing(checkpoint: Checkpoint, max_epochs: int) -> bool:
    """Whether a run has done all epochs but was stopped or killed before its final samples and files."""
    state = checkpoint.state
    ends = (event for _, event in read_events(checkpoint.run_dir) if isinstance(event, RunEnded))
    return state.epoch == max_epochs and not any(end.phase == "done" and end.step >= state.step for end in ends)


def complete_save(checkpoint: Checkpoint, saver: Saver, source: ModelSource) -> None:
    """Write the single files of a resumed checkpoint, unless its run's log reports them as written.

    A file that was written and then moved away by its owner is not written again.
    """
    if is_logged(checkpoint.path):
        return
    process = DiffusionProcess.from_config(source.config("scheduler/scheduler_config.json"))
    saver.complete(checkpoint.path, checkpoint.state.step, source.family, process.prediction_type)


def is_logged(checkpoint: Path) -> bool:
    """Whether the events of a run report a checkpoint, which they do once all of it is written."""
    with suppress(OSError):
        for entry in objects_in(lines_of(checkpoint.parents[1] / EVENTS_NAME)):
            is_save = entry.get("event") == CheckpointSaved.__name__
            if is_save and PurePath(str(entry.get("path"))).name == checkpoint.name:
                return True
    return False
