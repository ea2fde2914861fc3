"""The end of a run that could not be saved: which steps are lost, and how to train them again."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from ed2.app.faults import Fault
from ed2.app.run_settings import restart_advice
from ed2.checkpoint.finding import candidates
from ed2.checkpoint.folder import find_damage
from ed2.checkpoint.identity import oldest_first
from ed2.checkpoint.resume import open_or_none
from ed2.checkpoint.room import shortage
from ed2.errors import Ed2Error, UnusableWeightsError
from ed2.events import CheckpointSaved
from ed2.text import counted, file_size, plural


def unsaved(error: Exception, run_dir: Path, step: int, required: Mapping[Path, int]) -> Fault:
    """The fault of a run whose last step could not be saved: why, what is lost, and what to do.

    Args:
        error: why.
        run_dir: the run's folder.
        step: the last one that was trained.
        required: bytes that a checkpoint takes, by folder.
    """
    last = _last_saved(run_dir)
    if isinstance(error, UnusableWeightsError):  # training the same steps again would end the same way
        return Fault(str(error), None, last)
    known = error if isinstance(error, Ed2Error) else Ed2Error("The run could not be saved", f"{error}.")
    said = str(Ed2Error(known.what, f"{known.why} {_lacking(required)}".strip(), known.fix))
    if last is None:
        return Fault(
            f"{said} The run has no checkpoint yet, so nothing of it is saved. {restart_advice(run_dir)}", None
        )
    return Fault(f"{said} {_lost(step - last.step, last.path.name)}", None, last)


def _lost(steps: int, name: str) -> str:
    if steps <= 0:
        return f"Nothing is lost: {name} has the same step."
    verb = plural(steps, "was", "were")
    again = f"train {plural(steps, 'it', 'them')} again with --resume_ckpt findlast."
    return f"The {counted(steps, 'step')} after {name} {verb} not saved; {again}"


def _lacking(required: Mapping[Path, int]) -> str:
    """How much space a full disk lacks; empty where there is enough, or that is not known."""
    with contextlib.suppress(OSError):
        if short := shortage(required):
            needed, free = file_size(short.required), file_size(short.free)
            return f"A checkpoint needs {needed}, and {free} are free in {short.folder}."
    return ""


def _last_saved(run_dir: Path) -> CheckpointSaved | None:
    """The newest checkpoint of a run by the sizes of its files; its bytes are compared when it is resumed."""
    with contextlib.suppress(OSError):
        for folder in reversed(oldest_first(candidates(run_dir))):
            checkpoint = open_or_none(folder)
            if checkpoint and not find_damage(folder, is_quick=True):
                state = checkpoint.state
                return CheckpointSaved(state.step, state.epoch, "", folder, None, 0, 0.0)
    return None
