"""Saving a run: a diffusers folder to continue from or load anywhere, and a single file for a webui."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from ed2.checkpoint.export import Exporter
from ed2.checkpoint.folder import STATE_FILE, TRAINING_STATE, damage, whole_folder
from ed2.checkpoint.snapshot import Snapshot, take_snapshot
from ed2.disk import plain_reason, rename
from ed2.errors import CheckpointError, Ed2Error
from ed2.events import CheckpointSaved, EventBus, Warned
from ed2.models.sd import StableDiffusion
from ed2.training.state import Run, TrainState

Kind = Literal["", "last", "interrupted", "errored"]

EMA_SUFFIX = "_ema"
"""Ends the name of a checkpoint of averaged weights."""
STATES_KEPT = 3
"""How many of the newest checkpoints keep their training state."""
NOT_WRITTEN = (OSError, RuntimeError, MemoryError, ValueError, SafetensorError)
"""What may go wrong in writing."""


@dataclass(frozen=True, kw_only=True)
class Saver:
    """Writes the checkpoints of one run.

    Attributes:
        run_dir: the run's folder.
        project: the beginning of the names.
        bus: is told what could not be done but does not make a checkpoint worthless.
        exporter: writes the single files; None writes none.
        prepend_last: whether the last checkpoint's name begins with `last-`.
        about: goes into the training state beside what the run itself knows: seed, fingerprint of the dataset.
    """

    run_dir: Path
    project: str
    bus: EventBus
    exporter: Exporter | None
    prepend_last: bool = True
    about: Mapping[str, Any]

    def name(self, state: TrainState, kind: Kind) -> str:
        """The name of a checkpoint: `last-myproj-ep59-gs00600` after the 60th epoch."""
        prefix = f"{kind}-" if kind and not (kind == "last" and not self.prepend_last) else ""
        epoch = state.epoch - 1 if state.epoch_ended else state.epoch
        return f"{prefix}{self.project}-ep{epoch:02d}-gs{state.step:05d}"

    def save(self, run: Run, kind: Kind = "") -> CheckpointSaved:
        """Write a checkpoint of `run` as it is now.

        Raises:
            CheckpointError: it could not be written; what was there before is unchanged.
        """
        snapshot = take_snapshot(run, self.run_dir.name, self.about, copied=False)
        return self.write(snapshot, self.name(run.state, kind), kind)

    def write(self, snapshot: Snapshot, name: str, kind: Kind) -> CheckpointSaved:
        """Write a checkpoint under `name`, and its single file.

        Raises:
            CheckpointError: it could not be written; what was there before is unchanged.
        """
        started = time.monotonic()
        target = self.run_dir / "ckpts" / name
        try:
            written = self._write_folder(target, snapshot)
        except NOT_WRITTEN as error:
            raise self._not_written(target, error) from error
        single = self._export(target, snapshot)
        if snapshot.averages:
            self._write_average(target.with_name(f"{name}{EMA_SUFFIX}"), snapshot)
        _thin_training_states(target.parent)
        return CheckpointSaved(
            step=snapshot.step,
            epoch=snapshot.epoch,
            kind=kind,
            path=target,
            single_file=single,
            bytes_written=written + (single.stat().st_size if single else 0),
            seconds=time.monotonic() - started,
        )

    def saved_already(self, state: TrainState) -> CheckpointSaved | None:
        """What was written of this very step, if it is whole: another copy of it would be of no use."""
        for folder in (self.run_dir / "ckpts").glob(f"[!.]*-gs{state.step:05d}"):
            if (folder / TRAINING_STATE / STATE_FILE).is_file() and not damage(folder, is_quick=True):
                return CheckpointSaved(state.step, state.epoch, "", folder, None, 0, 0.0)
        return None

    def require_export(self, model: StableDiffusion) -> None:
        """See that the weights of `model` have a place in a single file.

        Raises:
            ModelError: they have none.
        """
        if self.exporter is not None:
            self.exporter.require_place(model)

    def _write_folder(self, target: Path, snapshot: Snapshot) -> int:
        """Write the diffusers folder and the training state in it; give back how many bytes."""
        _set_aside_damaged(target)
        if target.exists():
            return 0
        with whole_folder(target, {"step": snapshot.step, "versions": self.about.get("versions", {})}) as folder:
            for name, content in snapshot.small_files.items():
                folder.add(name, content)
            for name, tensors in snapshot.model_files().items():
                folder.add_tensors(name, tensors)
            for stem, tensors in snapshot.state_tensors.items():
                folder.add_tensors(f"{TRAINING_STATE}/{stem}.safetensors", tensors)
            folder.add(f"{TRAINING_STATE}/{STATE_FILE}", snapshot.state)
        return sum(record.bytes for record in folder.files.values())

    def _write_average(self, target: Path, snapshot: Snapshot) -> None:
        """Write the same checkpoint with the average in place of what was trained, and no training state."""
        try:
            _set_aside_damaged(target)
            if not target.exists():
                with whole_folder(target, {"step": snapshot.step}) as folder:
                    for name, content in snapshot.small_files.items():
                        folder.add(name, content)
                    for name, tensors in snapshot.model_files(averaged=True).items():
                        folder.add_tensors(name, tensors)
        except NOT_WRITTEN as error:
            self.bus.emit(Warned(snapshot.step, str(self._not_written(target, error))))
        else:
            self._export(target, snapshot)

    def _export(self, checkpoint: Path, snapshot: Snapshot) -> Path | None:
        """Write the single file; where that fails the checkpoint is good all the same."""
        if self.exporter is None:
            return None
        try:
            return self.exporter.write(checkpoint, snapshot.family, snapshot.prediction_type)
        except Ed2Error as error:
            text = f"{error} The checkpoint {checkpoint.name} itself is complete."
        except NOT_WRITTEN as error:
            reason = plain_reason(error)
            text = f"The single file of {checkpoint.name} could not be written: {reason}. The checkpoint is complete."
        self.bus.emit(Warned(snapshot.step, text))
        return None

    def _not_written(self, target: Path, error: BaseException) -> CheckpointError:
        fix = f"Free some space, or see that {self.run_dir} is there and can be written."
        return CheckpointError(f"The checkpoint {target.name} could not be written", f"{plain_reason(error)}.", fix)


def _set_aside_damaged(target: Path) -> None:
    """Free the name of a checkpoint that was damaged after it was written."""
    if target.exists() and damage(target):
        rename(target, aside(target))


def aside(checkpoint: Path) -> Path:
    """The name under which a damaged checkpoint is kept out of the way."""
    return checkpoint.with_name(f".damaged-{time.time_ns()}-{checkpoint.name}")


def _thin_training_states(checkpoints: Path) -> None:
    """Remove the training state of all but the newest checkpoints; their weights stay."""
    states = sorted(checkpoints.glob(f"[!.]*/{TRAINING_STATE}/{STATE_FILE}"), key=lambda file: file.stat().st_mtime)
    for file in states[:-STATES_KEPT]:
        trash = checkpoints / f".trash-{time.time_ns()}-{file.parent.parent.name}"
        rename(file.parent, trash)
        shutil.rmtree(trash)
