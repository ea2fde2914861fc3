"""Finding a sound checkpoint: every byte is compared, and where one is damaged the one before is taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ed2.checkpoint.folder import MANIFEST, STATE_FILE, TRAINING_STATE, Advance, Unreadable, aside, damage, untold
from ed2.checkpoint.order import age, oldest_first
from ed2.checkpoint.origin import is_ours
from ed2.checkpoint.resume import Checkpoint, opened_or_none
from ed2.checkpoint.run_lock import only_trainer
from ed2.disk import rename
from ed2.errors import CheckpointError


@dataclass(frozen=True)
class Found:
    """The newest sound checkpoint, if there is one, and what was damaged on the way to it, in sentences."""

    checkpoint: Checkpoint | None
    damaged: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """The sentences, with what is taken instead."""
        instead = f": continuing from {self.checkpoint.path.name}." if self.checkpoint else "."
        return [f"{sentence}{instead}" for sentence in self.damaged]


def newest_of_run(run_dir: Path, advance: Advance = untold) -> Found:
    """The newest sound checkpoint of a run; `advance` is told how far the comparison of its bytes is.

    Damaged ones that are newer are renamed, so that their names are free, unless the run is being trained just now.
    Those that cannot be read keep their names, and so does one whose comparison was stopped.
    """
    return _newest_sound(candidates(run_dir), advance)


def newest_below(logdir: Path, advance: Advance = untold) -> Found:
    """The checkpoint that was saved last under `logdir`, if it is sound, else the one before, and so on."""
    runs = [path.parent for path in logdir.glob("*/ckpts") if path.is_dir()]
    return _newest_sound([path for run_dir in runs for path in candidates(run_dir)], advance)


def require_sound(path: Path, *, with_state: bool, advance: Advance = untold) -> None:
    """Read every byte of a checkpoint of ours that was asked for by its name; it is left as it is.

    Args:
        path: any model; one that is no checkpoint of ours is passed over.
        with_state: whether the training state is needed too.
        advance: told how far it is.

    Raises:
        CheckpointError: it is damaged; names the sound one before it.
    """
    if not (path / MANIFEST).is_file() and not (path / TRAINING_STATE / STATE_FILE).is_file():
        return
    fault = damage(path, with_state=with_state, advance=advance)
    if fault is None:
        return
    own = oldest_first(candidates(path.parent.parent))
    earlier = [other for other in reversed(own) if age(other) < age(path)]
    sound = next((c for o in earlier if not damage(o, advance=advance) and (c := opened_or_none(o))), None)
    what = "cannot be read" if isinstance(fault, Unreadable) else "is damaged"
    fix = f"Continue from the one before it: --resume_ckpt {sound.path}" if sound else "Choose another checkpoint."
    if with_state and damage(path, with_state=False, advance=advance) is None:
        fix += " Or add --weights_only: its weights are sound."
    raise CheckpointError(f"{path.name} {what}", f"{fault}.", fix)


def candidates(run_dir: Path) -> list[Path]:
    """The checkpoints of a run that have a training state, sound or not; not those that an older version thinned."""
    folders = [path.parent for path in (run_dir / "ckpts").glob(f"[!.]*/{TRAINING_STATE}") if path.is_dir()]
    return [f for f in folders if (f / MANIFEST).exists() or (f / TRAINING_STATE / STATE_FILE).exists()]


def _newest_sound(paths: Sequence[Path], advance: Advance) -> Found:
    damaged: list[str] = []
    for path in reversed(oldest_first(paths)):
        if not is_ours(path):
            damaged.append(f"{path} was not written by this program and stays as it is")
            continue
        fault = damage(path, advance=advance)
        if fault is None and (checkpoint := opened_or_none(path)):
            return Found(checkpoint, tuple(damaged))
        if fault is None:
            damaged.append(f"{path.name} is of another version of this program")
            continue
        if isinstance(fault, Unreadable):
            damaged.append(f"{path.name} cannot be read just now ({fault})")
            continue
        renamed = _set_aside(path, advance)
        damaged.append(f"{path.name} is damaged ({fault}){f' and now named {renamed.name}' if renamed else ''}")
    return Found(None, tuple(damaged))


def _set_aside(damaged: Path, advance: Advance) -> Path | None:
    """Rename a damaged checkpoint; None where it keeps its name: the run is being trained, the drive read-only."""
    new = aside(damaged)
    try:
        with only_trainer(damaged.parent.parent):
            fault = damage(damaged, advance=advance)  # again: its trainer may have been removing it
            if fault is None or isinstance(fault, Unreadable):
                return None
            rename(damaged, new)
    except (OSError, CheckpointError):
        return None
    return new
