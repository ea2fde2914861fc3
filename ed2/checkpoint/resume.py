"""The checkpoint that a run resumes from: found, every byte of it compared, and restored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load_file

from ed2.checkpoint.folder import ByteProgress, damaged_name, find_damage, no_progress
from ed2.checkpoint.identity import (
    CKPTS,
    MANIFEST,
    STATE_FILE,
    TRAINING_STATE,
    age,
    is_in_its_run,
    is_ours,
    oldest_first,
    read_manifest,
)
from ed2.checkpoint.optimizer_state import restore_state
from ed2.checkpoint.run_lock import only_trainer
from ed2.checkpoint.snapshot import FORMATS_READ, LOST_STATE, ema_stem, trained_stem
from ed2.disk import rename
from ed2.errors import CheckpointError, shown
from ed2.models.base import DiffusionModel, trained_parts
from ed2.models.files.lora_base import LORA_FILE, is_lora_checkpoint
from ed2.small_files import read_object
from ed2.training.optimizers import averages
from ed2.training.state import Run, TrainState

_TYPES = {"steps_per_epoch": int, "metrics": dict, "scaler": dict, "optimizers": dict, "versions": dict}
"""Entries of a training state's description, and their types."""
LEFT_OUT = "left_out"
"""Another: the files that the run leaves out since its start, by set of images, if it began with headers."""
LOST_STATE_NOTE = (
    "A process of this run was lost, and with it part of the optimizer state, which starts from scratch: the result "
    "will not be bit-identical."
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of this program that a run can resume from.

    Attributes:
        path: its diffusers folder.
        values: the description of its training state.
    """

    path: Path
    values: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """Read the training state's description; None if `path` has no training state.

        Raises:
            CheckpointError: it is damaged, or was written by a newer version.
        """
        file = path / TRAINING_STATE / STATE_FILE
        if not file.is_file():
            return None
        try:
            values = read_object(file)
            if values.get("format") not in FORMATS_READ:
                fix = "Use the version that wrote it, or add --weights_only."
                raise CheckpointError(f"{path.name} was written by another version of this program", "", fix)
            _require_valid(values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            fix = "Choose an earlier checkpoint, or add --weights_only to start a new run from its weights."
            raise CheckpointError(f"The training state of {path.name} is damaged", f"{error!r}.", fix) from None
        return cls(path, values)

    @property
    def manifest(self) -> dict[str, Any]:
        """Its manifest; empty where there is none that can be read."""
        try:
            return read_manifest(self.path)
        except (OSError, ValueError):
            return {}

    @property
    def is_in_its_run(self) -> bool:
        """Whether it is still in `ckpts` of the run that wrote it, even if that folder was renamed."""
        return is_in_its_run(self.path, self.values)

    @property
    def run_dir(self) -> Path:
        """The folder of the run that wrote it."""
        return self.path.parent.parent

    @property
    def state(self) -> TrainState:
        """The progress of the run."""
        return TrainState.from_dict(self.values["state"])

    @property
    def is_newest(self) -> bool:
        """Whether its run has no checkpoint of a later step; the content of the files is not compared."""
        for checkpoint in candidates(self.run_dir):
            damage = find_damage(checkpoint, is_quick=True)
            if damage and not damage.is_unreadable:
                continue
            other = open_or_none(checkpoint)
            if other and other.state.step > self.state.step:
                return False
        return True

    def restore(self, run: Run) -> list[str]:
        """Restore the optimizers, EMA, scaler and metrics of `run`, which was built from this checkpoint's weights.

        Returns:
            Sentences on what could not be restored because settings have changed.

        Raises:
            CheckpointError: the state is damaged.
        """
        notes = [LOST_STATE_NOTE] if self.values.get(LOST_STATE) else []
        state_dir = self.path / TRAINING_STATE
        try:
            if is_lora_checkpoint(self.path):
                restore_adapters(run.model, self.path)
            notes += filter(None, [self._restore_optimizer(run, network) for network in run.optimizers.by_network])
            files = {name: state_dir / f"{ema_stem(name)}.safetensors" for name in run.optimizers.by_network}
            run.ema.restore({name: load_file(file) for name, file in files.items() if file.is_file()})
            if run.precision.scaler.is_enabled() and self.values["scaler"]:
                run.precision.scaler.load_state_dict(self.values["scaler"])
            run.metrics.restore(self.values["metrics"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            fix = "Choose an earlier checkpoint, or add --weights_only."
            raise CheckpointError(f"The training state of {self.path.name} is damaged", f"{error}.", fix) from None
        return notes

    def _restore_optimizer(self, run: Run, network: str) -> str:
        """Restore a network's optimizer; a sentence if it was of another kind, so that this one starts from scratch."""
        optimizer, state_dir = run.optimizers.by_network[network], self.path / TRAINING_STATE
        saved, now = self.values["optimizers"].get(network, {"class": "no optimizer"}), type(optimizer).__name__
        if saved["class"] != now:
            return f"The {network} was trained with {saved['class']}; {now} starts from scratch."
        tensors = load_file(state_dir / f"optimizer-{network}.safetensors")
        options, is_here = saved.get("options", ()), run.optimizers.shards.is_here
        restore_state(optimizer, tensors, saved["numbers"], options, is_here)
        if averages(optimizer):
            run.model.parts[network].restore(load_file(state_dir / f"{trained_stem(network)}.safetensors"))
        return ""


def restore_adapters(model: DiffusionModel, checkpoint: Path) -> None:
    """Write the matrices of a LoRA's checkpoint into a model with such adapters.

    Raises:
        OSError, SafetensorError: they cannot be read.
        KeyError, RuntimeError: they are of other layers, or of another rank.
    """
    tensors = load_file(checkpoint / LORA_FILE)
    for part in trained_parts(model).values():
        part.restore(tensors)


def _require_valid(values: Mapping[str, Any]) -> None:
    """Raise KeyError or TypeError where entries of a training state are missing or of the wrong type."""
    TrainState.from_dict(values["state"])
    for name, kind in _TYPES.items():
        if not isinstance(values.get(name, kind()), kind):
            raise TypeError(f"{name} is {shown(values[name])}")
    if not _names_files(values.get(LEFT_OUT, {})):
        raise TypeError(f"{LEFT_OUT} is {shown(values[LEFT_OUT])}")


def _names_files(left_out: object) -> bool:
    """Whether this is a list of names for each set of images."""
    if not isinstance(left_out, dict) or not all(isinstance(names, list) for names in left_out.values()):
        return False
    return all(isinstance(name, str) for name in chain(*left_out.values()))


def open_or_none(path: Path) -> Checkpoint | None:
    """The checkpoint, if this program can resume from it according to its description."""
    try:
        return Checkpoint.open(path)
    except CheckpointError:
        return None


@dataclass(frozen=True)
class NewestCheckpoint:
    """The newest sound checkpoint, if there is one, and sentences on the damaged ones that are newer."""

    checkpoint: Checkpoint | None
    damaged: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """The sentences, with what is used instead."""
        instead = f": continuing from {self.checkpoint.path.name}." if self.checkpoint else "."
        return [f"{sentence}{instead}" for sentence in self.damaged]


def newest_of_run(run_dir: Path, progress: ByteProgress = no_progress) -> NewestCheckpoint:
    """The newest sound checkpoint of a run.

    Damaged ones that are newer are renamed, so that their names are free, unless the run is being trained right now.
    Those that cannot be read keep their names, and so does one whose comparison was stopped.
    """
    return _newest_sound(candidates(run_dir), progress)


def newest_below(logdir: Path, progress: ByteProgress = no_progress) -> NewestCheckpoint:
    """The checkpoint that was saved last under `logdir`, if it is sound, else the one before, and so on."""
    found: list[Path] = []
    for ckpts in logdir.glob(f"*/{CKPTS}"):
        if ckpts.is_dir():
            found += candidates(ckpts.parent)
    return _newest_sound(found, progress)


def require_sound(path: Path, *, with_state: bool, progress: ByteProgress = no_progress) -> None:
    """Compare every byte of a checkpoint that the user named; it is never renamed.

    Args:
        path: any model; only checkpoints of this program are compared.
        with_state: whether the training state is needed too.
        progress: called as the bytes are compared.

    Raises:
        CheckpointError: it is damaged; names the last sound one before it.
    """
    if not (path / MANIFEST).is_file() and not (path / TRAINING_STATE / STATE_FILE).is_file():
        return
    damage = find_damage(path, with_state=with_state, progress=progress)
    if damage is None:
        return
    sound = _last_sound_before(path, progress)
    what = "cannot be read" if damage.is_unreadable else "is damaged"
    fix = f"Continue from the one before it: --resume_ckpt {sound}" if sound else "Choose another checkpoint."
    if with_state and find_damage(path, with_state=False, progress=progress) is None:
        fix += " Or add --weights_only: its weights are intact."
    raise CheckpointError(f"{path.name} {what}", f"{damage}.", fix)


def _last_sound_before(path: Path, progress: ByteProgress) -> Path | None:
    own_age = age(path)
    for other in reversed(oldest_first(candidates(path.parent.parent))):
        if age(other) < own_age and not find_damage(other, progress=progress) and open_or_none(other):
            return other
    return None


def candidates(run_dir: Path) -> list[Path]:
    """The checkpoints of a run that have a training state, sound or not."""
    folders = [path.parent for path in (run_dir / CKPTS).glob(f"[!.]*/{TRAINING_STATE}") if path.is_dir()]
    # An older version that removed a state to save space left it without either file.
    return [f for f in folders if (f / MANIFEST).exists() or (f / TRAINING_STATE / STATE_FILE).exists()]


def _newest_sound(paths: Sequence[Path], progress: ByteProgress) -> NewestCheckpoint:
    damaged: list[str] = []
    for path in reversed(oldest_first(paths)):
        if not is_ours(path):
            damaged.append(f"{path} was not written by this program and is left alone")
            continue
        damage = find_damage(path, progress=progress)
        if damage is None:
            if checkpoint := open_or_none(path):
                return NewestCheckpoint(checkpoint, tuple(damaged))
            damaged.append(f"{path.name} was written by another version of this program")
        elif damage.is_unreadable:
            damaged.append(f"{path.name} cannot be read at the moment ({damage})")
        elif renamed := _rename_damaged(path, progress):
            damaged.append(f"{path.name} is damaged ({damage}) and was renamed to {renamed.name}")
        else:
            damaged.append(f"{path.name} is damaged ({damage})")
    return NewestCheckpoint(None, tuple(damaged))


def _rename_damaged(checkpoint: Path, progress: ByteProgress) -> Path | None:
    """Its new name; None if it keeps the old one: the run is being trained, or the drive is read-only."""
    new = damaged_name(checkpoint)
    try:
        with only_trainer(checkpoint.parent.parent):
            damage = find_damage(checkpoint, progress=progress)  # again: its trainer may have been removing it
            if damage is None or damage.is_unreadable:
                return None
            rename(checkpoint, new)
    except (OSError, CheckpointError):
        return None
    return new
