"""Saving a run: a diffusers folder to resume from or load anywhere, and a single file for web UIs."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from ed2.checkpoint.export import Exporter, opened_as
from ed2.checkpoint.folder import NewFolder, damaged_name, find_damage, whole_folder
from ed2.checkpoint.identity import CKPTS, STATE_FILE, TRAINING_STATE, average_of
from ed2.checkpoint.retention import LatestValidation, Retention
from ed2.checkpoint.room import require_space
from ed2.checkpoint.snapshot import HostBuffers, Snapshot, state_bytes, take_snapshot
from ed2.disk import drop_from_cache, rename
from ed2.disk_errors import plain_reason, wait_for_handles
from ed2.errors import CheckpointError, Ed2Error
from ed2.events import CheckpointSaved, EventBus, Warned
from ed2.models.base import DiffusionModel, saved_parts
from ed2.models.files.lora_base import BASE_FILE, LORA_FILE, adapter_metadata
from ed2.models.files.tensor_file import bytes_of
from ed2.training.state import Run, TrainState

Kind = Literal["", "best", "last", "interrupted", "errored"]

NOT_WRITTEN = (OSError, RuntimeError, MemoryError, ValueError, SafetensorError)
"""Errors in writing."""


@dataclass(frozen=True, kw_only=True)
class Saver:
    """Writes the checkpoints of one run.

    Attributes:
        run_dir: the run's folder.
        project: the beginning of the names.
        bus: receives warnings of failures that leave the checkpoint itself intact.
        exporter: writes the single files; None writes none.
        keep_last: how many of the newest checkpoints to keep; None keeps all.
        prepend_last: whether the last checkpoint's name begins with `last-`.
        validation: the last validation, which decides the best checkpoint.
        before_write: called with the step before a checkpoint is written; restores the run's folder if it is gone.
        about: added to the training state: seed, fingerprint of the dataset.
        beside: small files to add to the folder of the training state, by name.
        run_name: the name of the run when it started; None for the name of its folder.
        lora_base: the record of the base model, if a LoRA is trained.
    """

    run_dir: Path
    project: str
    bus: EventBus
    exporter: Exporter | None
    keep_last: int | None = None
    prepend_last: bool = True
    validation: LatestValidation = field(default_factory=LatestValidation)
    before_write: Callable[[int], object] = lambda step: None
    about: Mapping[str, Any]
    beside: Mapping[str, bytes] = field(default_factory=dict)
    run_name: str | None = None
    lora_base: bytes | None = None

    def name(self, state: TrainState, kind: Kind) -> str:
        """The name of a checkpoint: `last-myproj-ep59-gs00600` after the 60th epoch."""
        prefix = f"{kind}-" if kind and not (kind == "last" and not self.prepend_last) else ""
        epoch = state.epoch - 1 if state.epoch_ended else state.epoch
        return f"{prefix}{self.project}-ep{epoch:02d}-gs{state.step:05d}"

    def save(self, run: Run, kind: Kind = "") -> CheckpointSaved:
        """Write a checkpoint of `run` as it is now.

        Raises:
            CheckpointError: it could not be written; older checkpoints are unchanged.
        """
        name = self.name(run.state, kind)
        try:
            snapshot = self.snapshot(run)
        except NOT_WRITTEN as error:
            raise _not_written(self.run_dir / CKPTS / name, error) from error
        return wait_for_handles(lambda: self.write(snapshot, name, kind))

    def snapshot(self, run: Run, buffers: HostBuffers | None = None) -> Snapshot:
        """Capture `run` as it is now; without buffers for a copy it has to be written before the next step."""
        about = {**self.about, "validation": self.validation.measured}
        name = self.run_name or self.run_dir.name
        return take_snapshot(run, name, about, buffers, self.lora_base)

    def require_space(self, run: Run, name: str) -> None:
        """Raise CheckpointError unless the disks have space for a checkpoint of `run`."""
        require_space(name, self.required_bytes(run))

    def required_bytes(self, run: Run) -> dict[Path, int]:
        """How many bytes a checkpoint of `run` takes, by folder."""
        parts = [part.saved() for part in saved_parts(run.model).values()]
        weights, copies = sum(map(bytes_of, parts)), 2 if run.ema.state() else 1  # the average is a complete model
        required = {self.run_dir / CKPTS: copies * weights + state_bytes(run)}
        if self.exporter:
            single = copies * sum(bytes_of(part, self.exporter.dtype) for part in parts)
            required[self.exporter.folder] = required.get(self.exporter.folder, 0) + single
        return required

    def write(self, snapshot: Snapshot, name: str, kind: Kind) -> CheckpointSaved:
        """Write a checkpoint under `name`, and its single file.

        Raises:
            CheckpointError: it could not be written; older checkpoints are unchanged.
        """
        started = time.monotonic()
        target = self.run_dir / CKPTS / name
        average = average_of(target)
        has_average = bool(snapshot.averages) and self._write_average(average, snapshot)
        try:  # after the average: a run killed from here on does not return to this step
            self.before_write(snapshot.step)
            written = self._write_folder(target, snapshot)
        except NOT_WRITTEN as error:
            raise _not_written(target, error) from error
        single = self._export(target, snapshot.step, snapshot.family, snapshot.prediction_type)
        if has_average:
            single_of_average = self._export(average, snapshot.step, snapshot.family, snapshot.prediction_type)
            drop_from_cache(_large_files(average, single_of_average))
        drop_from_cache(_large_files(target, single))  # only now: the single file is made of the others
        self._thin(target, snapshot.step)
        return CheckpointSaved(
            step=snapshot.step,
            epoch=snapshot.epoch,
            kind=kind,
            path=target,
            single_file=single,
            bytes_written=written + _size(single),
            seconds=time.monotonic() - started,
            opens_as=opened_as(target, snapshot.family, snapshot.prediction_type) if single else "",
        )

    def _thin(self, just_saved: Path, step: int) -> None:
        """Remove what is no longer needed; a failure is only a warning."""
        try:
            sentences = Retention(self.keep_last, self.exporter, f"best-{self.project}-ep").thin(just_saved)
        except OSError as error:
            sentences = [f"Older checkpoints could not be removed: {plain_reason(error)}."]
        for sentence in sentences:
            self.bus.emit(Warned(step, sentence))

    def find_saved(self, state: TrainState) -> CheckpointSaved | None:
        """The complete checkpoint of this very step, if there is one, so that it is not saved twice."""
        with contextlib.suppress(OSError):
            for folder in (self.run_dir / CKPTS).glob(f"[!.]*-gs{state.step:05d}"):
                if (folder / TRAINING_STATE / STATE_FILE).is_file() and not find_damage(folder, is_quick=True):
                    return self._existing(folder, state)
        return None

    def _existing(self, folder: Path, state: TrainState) -> CheckpointSaved:
        kind: Kind = "last" if folder.name.startswith("last-") else ""
        single = self.exporter.find_file(folder.name) if self.exporter else None
        total = sum(_size(file) for file in folder.rglob("*")) + _size(single)
        return CheckpointSaved(state.step, state.epoch, kind, folder, single, total, 0.0)

    def require_export(self, model: DiffusionModel) -> None:
        """Raise ModelError unless all weights of `model` have a place in a single file."""
        if self.exporter is not None:
            self.exporter.require_place(model)

    def _write_folder(self, target: Path, snapshot: Snapshot) -> int:
        """Write the diffusers folder with the training state in it; returns the number of bytes."""
        _rename_damaged(target)
        if target.exists():
            return 0
        with whole_folder(target, snapshot.about) as folder:
            _add_model(folder, snapshot)
            for stem, tensors in snapshot.state_tensors.items():
                folder.add_tensors(f"{TRAINING_STATE}/{stem}.safetensors", tensors)
            for name, content in self.beside.items():
                folder.add(f"{TRAINING_STATE}/{name}", content)
            folder.add(f"{TRAINING_STATE}/{STATE_FILE}", snapshot.state)
        # Nothing older is removed for a checkpoint that cannot be read back.
        if damage := find_damage(target, contents=folder.contents):
            if not damage.is_unreadable:
                rename(target, damaged_name(target))
            fix = "The drive may be failing: save to another one with --logdir."
            raise CheckpointError(f"The checkpoint {target.name} reads back damaged", f"{damage}.", fix)
        return sum(record.bytes for record in folder.files.values())

    def _write_average(self, target: Path, snapshot: Snapshot) -> bool:
        """Write the same checkpoint with the average in place of the trained weights; false if that failed."""
        try:
            _rename_damaged(target)
            if not target.exists():
                with whole_folder(target, snapshot.about) as folder:
                    _add_model(folder, snapshot, averaged=True)
        except NOT_WRITTEN as error:
            self.bus.emit(Warned(snapshot.step, str(_not_written(target, error))))
            return False
        return True

    def complete(self, checkpoint: Path, step: int, family: str, prediction_type: str) -> None:
        """Finish a save that was killed: write the missing single files, and remove what is no longer needed."""
        for folder in (checkpoint, average_of(checkpoint)):
            if self.exporter and folder.is_dir() and not self.exporter.find_file(folder.name):
                self._export(folder, step, family, prediction_type)
        self._thin(checkpoint, step)

    def _export(self, checkpoint: Path, step: int, family: str, prediction_type: str) -> Path | None:
        """Write the single file; a failure is only a warning."""
        if self.exporter is None:
            return None
        try:
            return self.exporter.write(checkpoint, family, prediction_type)
        except Ed2Error as error:
            text = f"{error} The checkpoint {checkpoint.name} is complete."
        except NOT_WRITTEN as error:
            reason = plain_reason(error)
            text = f"The single file of {checkpoint.name} could not be written: {reason}. The checkpoint is complete."
        self.bus.emit(Warned(step, text))
        return None


def _not_written(target: Path, error: BaseException) -> CheckpointError:
    reason = plain_reason(error)
    fix = f"Check that {target.parent} exists and is writable."
    if "disk" in reason:
        fix = "Free some space."
    elif isinstance(error, MemoryError):
        fix = "Close other programs."
    return CheckpointError(f"The checkpoint {target.name} could not be written", f"{reason}.", fix)


def _add_model(folder: NewFolder, snapshot: Snapshot, *, averaged: bool = False) -> None:
    for name, content in snapshot.small_files.items():
        folder.add(name, content)
    for name, tensors in snapshot.model_files(averaged=averaged).items():
        about = adapter_metadata(snapshot.small_files[BASE_FILE], tensors) if name == LORA_FILE else None
        folder.add_tensors(name, tensors, metadata=about)


def _large_files(checkpoint: Path, single: Path | None) -> list[Path]:
    """The files of a checkpoint that hold tensors, and its single file."""
    found = list(checkpoint.rglob("*.safetensors"))
    if single:
        found.append(single)
    return found


def _size(file: Path | None) -> int:
    """Bytes of a file; 0 for one that has just been removed, and for a folder."""
    try:
        if file and file.is_file():
            return file.stat().st_size
        return 0
    except OSError:
        return 0


def _rename_damaged(target: Path) -> None:
    """Free the name of a checkpoint that was damaged after it was written. Raises OSError if it cannot be read."""
    damage = find_damage(target) if target.exists() else None
    if damage is None:
        return
    if damage.is_unreadable:
        raise OSError(f"a checkpoint of that name exists, and {damage}")
    rename(target, damaged_name(target))
