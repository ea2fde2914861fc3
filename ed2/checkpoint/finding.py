"""Finds a sound checkpoint: every byte is compared, and if one is damaged, the one before it is used."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ed2.checkpoint.folder import Progress, damaged_name, find_damage, no_progress
from ed2.checkpoint.identity import CKPTS, MANIFEST, STATE_FILE, TRAINING_STATE, age, is_ours, oldest_first
from ed2.checkpoint.resume import Checkpoint, open_or_none
from ed2.checkpoint.run_lock import only_trainer
from ed2.disk import rename
from ed2.errors import CheckpointError


@dataclass(frozen=True)
class Found:
    """The newest sound checkpoint, if there is one, and sentences on the damaged ones that are newer."""

    checkpoint: Checkpoint | None
    damaged: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """The sentences, with what is used instead."""
        instead = f": continuing from {self.checkpoint.path.name}." if self.checkpoint else "."
        return [f"{sentence}{instead}" for sentence in self.damaged]


def newest_of_run(run_dir: Path, progress: Progress = no_progress) -> Found:
    """The newest sound checkpoint of a run.

    Damaged ones that are newer are renamed, so that their names are free, unless the run is being trained right now.
    Those that cannot be read keep their names, and so does one whose comparison was stopped.
    """
    return _newest_sound(candidates(run_dir), progress)


def newest_below(logdir: Path, progress: Progress = no_progress) -> Found:
    """The checkpoint that was saved last under `logdir`, if it is sound, else the one before, and so on."""
    found: list[Path] = []
    for ckpts in logdir.glob(f"*/{CKPTS}"):
        if ckpts.is_dir():
            found += candidates(ckpts.parent)
    return _newest_sound(found, progress)


def require_sound(path: Path, *, with_state: bool, progress: Progress = no_progress) -> None:
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


def _last_sound_before(path: Path, progress: Progress) -> Path | None:
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


def _newest_sound(paths: Sequence[Path], progress: Progress) -> Found:
    damaged: list[str] = []
    for path in reversed(oldest_first(paths)):
        if not is_ours(path):
            damaged.append(f"{path} was not written by this program and is left alone")
            continue
        damage = find_damage(path, progress=progress)
        if damage is None:
            if checkpoint := open_or_none(path):
                return Found(checkpoint, tuple(damaged))
            damaged.append(f"{path.name} was written by another version of this program")
        elif damage.is_unreadable:
            damaged.append(f"{path.name} cannot be read at the moment ({damage})")
        elif renamed := _rename_damaged(path, progress):
            damaged.append(f"{path.name} is damaged ({damage}) and was renamed to {renamed.name}")
        else:
            damaged.append(f"{path.name} is damaged ({damage})")
    return Found(None, tuple(damaged))


def _rename_damaged(checkpoint: Path, progress: Progress) -> Path | None:
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
