"""What follows an error that ends a run: what is saved, and what a person is told."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ed2.app.memory.suggestion import out_of_memory_fix
from ed2.checkpoint.finding import candidates
from ed2.checkpoint.folder import Progress, find_damage, no_progress
from ed2.checkpoint.resume import open_or_none
from ed2.checkpoint.saver import Kind
from ed2.errors import DivergedError, Ed2Error, MemoryFullError, ModelError, UpdateFailedError
from ed2.events import CheckpointSaved
from ed2.models.memory import is_out_of_memory
from ed2.settings.fields import fields
from ed2.settings.schema import Settings

SLOWER = "with a learning rate half as large"


@dataclass(frozen=True)
class Fault:
    """The end of a run that went wrong.

    Attributes:
        reason: for people, with what to do.
        kind: of the checkpoint to save of the weights in memory; None saves none.
        goes_back_to: an earlier checkpoint that the run ends with.
    """

    reason: str
    kind: Kind | None = "errored"
    goes_back_to: CheckpointSaved | None = None


@dataclass(frozen=True)
class WentBack:
    """The way of a run back to its last good checkpoint.

    Attributes:
        run_dir: the run's folder.
        progress: told how far the comparison of a checkpoint's bytes is.
    """

    run_dir: Path
    progress: Progress = no_progress

    def fault(self, why: str, advice: str, without: str) -> Fault:
        """End with the last checkpoint that was made before anything went wrong, or say what to do `without` one."""
        saved = self._last_good()
        if saved is None:
            return Fault(f"{why} There is no earlier checkpoint to go back to. {without}".strip())
        went = f"The run went back to its last good checkpoint, {saved.path.name}."
        return Fault(f"{why} {went} {advice}", None, saved)

    def _last_good(self) -> CheckpointSaved | None:
        """The last checkpoint of the run that was made before anything went wrong, if there is one."""
        opened = filter(None, map(open_or_none, candidates(self.run_dir)))
        before = sorted((c for c in opened if not c.state.bad_steps), key=lambda checkpoint: checkpoint.state.step)
        sound = (c for c in reversed(before) if find_damage(c.path, progress=self.progress) is None)
        last = next(sound, None)
        if last is None:
            return None
        return CheckpointSaved(last.state.step, last.state.epoch, "", last.path, None, 0, 0.0)


def fault_of(error: Exception, settings: Settings, device: torch.device, back: WentBack) -> Fault:
    """What `error` means for a run."""
    text = str(error) if isinstance(error, Ed2Error) else f"{type(error).__name__}: {error}"
    if isinstance(error, ModelError):
        text = f"{text} {_where_given(error)}"
    if isinstance(error, DivergedError):
        return back.fault(text, f"Continue from it {SLOWER}.", f"Begin anew {SLOWER}.")
    cause = error.__cause__ if isinstance(error, UpdateFailedError) else error
    is_oom = cause is not None and is_out_of_memory(cause)
    if is_oom:
        text = "Out of memory."
    if is_oom or isinstance(error, MemoryFullError):
        fix = out_of_memory_fix(settings, on_gpu=device.type == "cuda")
        text = f"{text} {fix}"
    if isinstance(error, UpdateFailedError):
        fault = back.fault(text, "Continue from it.", "")
        return replace(fault, kind=None)
    return Fault(text)


def _where_given(error: ModelError) -> str:
    """Which setting names the model that cannot be used."""
    named = [f"--{problem.path}" for problem in error.problems if problem.path in fields()]
    return f"It is the model of {', '.join(named) or '--resume_ckpt'}."
