"""An end that could not be saved: what of the run is in no checkpoint, and how to get there again."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from ed2.app.continued import begin_again
from ed2.app.faults import Fault
from ed2.checkpoint.finding import candidates
from ed2.checkpoint.folder import find_damage
from ed2.checkpoint.identity import oldest_first
from ed2.checkpoint.resume import open_or_none
from ed2.checkpoint.room import shortage
from ed2.errors import Ed2Error, UnusableWeightsError
from ed2.events import CheckpointSaved
from ed2.text import counted, file_size


def unsaved(error: Exception, run_dir: Path, step: int, wanted: Mapping[Path, int]) -> Fault:
    """Say that step `step` of a run could not be saved, why, what is lost by it, and what to do.

    Args:
        error: why.
        run_dir: the run's folder.
        step: the last one that was trained.
        wanted: what a checkpoint takes, in bytes, by folder.
    """
    last = _last_saved(run_dir)
    if isinstance(error, UnusableWeightsError):  # to do the same again would come to the same
        return Fault(str(error), None, last)
    known = error if isinstance(error, Ed2Error) else Ed2Error("The run could not be saved", f"{error}.")
    said = str(Ed2Error(known.what, f"{known.why} {_lacking(wanted)}".strip(), known.fix))
    if last is None:
        return Fault(f"{said} The run has no checkpoint yet: nothing of it is saved. {begin_again(run_dir)}", None)
    return Fault(f"{said} {_lost(step - last.step, last.path.name)}", None, last)


def _lost(steps: int, name: str) -> str:
    if steps <= 0:
        return f"Nothing is lost: {name} is of the same step."
    is_one = steps == 1
    again = f"--resume_ckpt findlast does {'it' if is_one else 'them'} again."
    return f"The {counted(steps, 'step')} since {name} {'is' if is_one else 'are'} in no checkpoint: {again}"


def _lacking(wanted: Mapping[Path, int]) -> str:
    """How much a full disk lacks; empty where there is room, or it does not say."""
    with contextlib.suppress(OSError):
        if short := shortage(wanted):
            return f"It takes {file_size(short.required)}, and {file_size(short.free)} are free in {short.folder}."
    return ""


def _last_saved(run_dir: Path) -> CheckpointSaved | None:
    """The newest checkpoint of a run as far as the lengths of its files tell: all bytes are compared at the start."""
    with contextlib.suppress(OSError):
        for folder in reversed(oldest_first(candidates(run_dir))):
            checkpoint = open_or_none(folder)
            if checkpoint and not find_damage(folder, is_quick=True):
                state = checkpoint.state
                return CheckpointSaved(state.step, state.epoch, "", folder, None, 0, 0.0)
    return None
