"""What follows an error that ends a run: what is saved, and what the user should do."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ed2.app.run_settings import restart_advice
from ed2.app.run_spec import RunSpec
from ed2.app.suggest.answer import out_of_memory_fix
from ed2.checkpoint.folder import ByteProgress, find_damage, no_progress
from ed2.checkpoint.identity import oldest_first
from ed2.checkpoint.resume import Checkpoint, candidates, open_or_none
from ed2.checkpoint.room import shortage
from ed2.checkpoint.saver import Kind
from ed2.errors import DivergedError, Ed2Error, MemoryFullError, ModelError, UnusableWeightsError, UpdateFailedError
from ed2.events import CheckpointSaved
from ed2.models.memory import is_out_of_memory
from ed2.settings.fields import fields
from ed2.settings.schema import Settings
from ed2.text import counted, file_size, plural

SLOWER = "with half the learning rate"


@dataclass(frozen=True)
class Fault:
    """The end of a failed run.

    Attributes:
        reason: for the user, with what to do.
        kind: of the checkpoint to save from the weights in memory; None saves none.
        rollback_to: an earlier checkpoint that the run ends with.
    """

    reason: str
    kind: Kind | None = "errored"
    rollback_to: CheckpointSaved | None = None


@dataclass(frozen=True)
class Rollback:
    """Finds the last good checkpoint of a run, to roll it back to; reports how far the comparison of its bytes is."""

    run_dir: Path
    progress: ByteProgress = no_progress

    def fault(self, why: str, advice: str, without: str) -> Fault:
        """End with the last good checkpoint and its `advice`, or with the advice for a run `without` one."""
        last = self.last_good()
        if last is None:
            return Fault(f"{why} There is no earlier checkpoint to go back to. {without}".strip())
        went = f"The run went back to its last good checkpoint, {last.path.name}."
        return Fault(f"{why} {went} {advice}", None, _saved_before(last))

    def last_good(self, *, include_after_skipped: bool = False) -> Checkpoint | None:
        """The last sound checkpoint of the run, if there is one; on demand also one after a skipped step."""
        opened = [c for c in map(open_or_none, candidates(self.run_dir)) if c]
        for checkpoint in sorted(opened, key=lambda found: found.state.step, reverse=True):
            if checkpoint.state.bad_steps and not include_after_skipped:
                continue
            if find_damage(checkpoint.path, progress=self.progress) is None:
                return checkpoint
        return None


def fault_of(error: Exception, settings: Settings, device: torch.device, back: Rollback) -> Fault:
    """What `error` means for a run."""
    text = str(error)
    if not isinstance(error, Ed2Error):
        text = f"Unexpected error: {type(error).__name__}: {text.rstrip('.')}. The run's run.log shows where."
    if isinstance(error, ModelError):
        text = f"{text} {_settings_of(error)}"
    if isinstance(error, DivergedError):
        return back.fault(text, f"Continue from it {SLOWER}.", f"Start again {SLOWER}.")
    cause = error.__cause__ if isinstance(error, UpdateFailedError) else error
    is_oom = cause is not None and is_out_of_memory(cause)
    if is_oom:
        text = "Out of memory." if cause is error else "Out of memory while updating the weights."
    if is_oom or isinstance(error, MemoryFullError):
        fix = out_of_memory_fix(settings, on_gpu=device.type == "cuda")
        text = f"{text} {fix}"
    if isinstance(error, UpdateFailedError):
        fault = back.fault(text, "Continue from it.", "")
        return replace(fault, kind=None)
    return Fault(text)


def _settings_of(error: ModelError) -> str:
    """A sentence on which setting names the model that cannot be used."""
    named = [f"--{problem.path}" for problem in error.problems if problem.path in fields()]
    return f"It was set by {', '.join(named) or '--resume_ckpt'}."


def unsaved_fault(error: Exception, run_dir: Path, step: int, required: Mapping[Path, int]) -> Fault:
    """The fault of a run whose last `step` could not be saved: why, what is lost, and what to do.

    `required` are the bytes that a checkpoint takes, by folder.
    """
    last = last_saved(run_dir)
    if isinstance(error, UnusableWeightsError):  # training the same steps again would end the same way
        return Fault(str(error), None, last)
    known = error if isinstance(error, Ed2Error) else Ed2Error("The run could not be saved", f"{error}.")
    said = str(Ed2Error(known.what, f"{known.why} {_shortage_text(required)}".strip(), known.fix))
    if last is None:
        said = f"{said} The run has no checkpoint yet, so nothing is saved."
        return Fault(f"{said} {restart_advice(run_dir)}", None)
    return Fault(f"{said} {_unsaved_steps_text(step - last.step, last.path.name)}", None, last)


def _unsaved_steps_text(steps: int, name: str) -> str:
    if steps <= 0:
        return f"Nothing is lost: {name} has the same step."
    verb = plural(steps, "was", "were")
    again = f"train {plural(steps, 'it', 'them')} again with --resume_ckpt findlast."
    return f"The {counted(steps, 'step')} after {name} {verb} not saved; {again}"


def _shortage_text(required: Mapping[Path, int]) -> str:
    """How much space a full disk is short of; empty if there is enough, or if it is unknown."""
    with contextlib.suppress(OSError):
        if short := shortage(required):
            needed, free = file_size(short.required), file_size(short.free)
            return f"A checkpoint needs {needed}, but only {free} is free in {short.folder}."
    return ""


def last_saved(run_dir: Path) -> CheckpointSaved | None:
    """The newest checkpoint of a run by the sizes of its files; its bytes are compared when it is resumed."""
    with contextlib.suppress(OSError):
        for folder in reversed(oldest_first(candidates(run_dir))):
            checkpoint = open_or_none(folder)
            if checkpoint and not find_damage(folder, is_quick=True):
                return _saved_before(checkpoint)
    return None


def _saved_before(checkpoint: Checkpoint) -> CheckpointSaved:
    """The event of a checkpoint that exists already."""
    return CheckpointSaved(checkpoint.state.step, checkpoint.state.epoch, "", checkpoint.path, None, 0, 0.0)


def spec_to_retry(
    error: UpdateFailedError, spec: RunSpec, back: Rollback, step: int, seen: set[tuple[str, int]]
) -> RunSpec | None:
    """The spec to train again with after a failed update, from the last checkpoint or from where the run started.

    None ends the run: the same failure is among those `seen` before, to which this one is added.
    """
    if spec.settings.memory.fused_backward and error.__cause__ and is_out_of_memory(error.__cause__):
        return None  # a retry would need as much memory again
    checkpoint = back.last_good(include_after_skipped=True)
    origin = checkpoint or spec.checkpoint
    origin_step = origin.state.step if origin else 0
    failure = (type(error.__cause__).__name__, origin_step)
    if failure in seen:
        return None
    seen.add(failure)
    place = f"step {origin_step}, where the run started"
    if checkpoint:
        place = f"checkpoint {checkpoint.path.name}"
    return spec.retried_from(checkpoint, f"Step {step + 1} failed. {error} Training again from {place}.")
