"""From a `Run` to its end: trains it, and turns whatever ends it into a saved checkpoint and one last event."""

import contextlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ed2.app.checks.space import space_notes
from ed2.app.checks.suitability import RunLength, unsuitable
from ed2.app.faults import Fault, Rollback, fault_of, last_saved, unsaved_fault
from ed2.app.images.captions import long_captions
from ed2.app.jobs import MainContext
from ed2.app.measured import SpeedWatch, watch_card
from ed2.app.optimizing import optimizer_notes
from ed2.app.resuming import VerifyProgress, is_logged
from ed2.app.run_spec import RunSpec
from ed2.checkpoint.saver import Kind
from ed2.data.epoch import EpochPlanner
from ed2.data.example import Dataset, Finding
from ed2.data.report import batch_notes, start_lines
from ed2.disk_errors import plain_reason
from ed2.errors import CheckpointError, Ed2Error, ModelError, StopRequested, UpdateFailedError
from ed2.events import CheckpointSaved, PhaseChanged, RunEnded, RunStarted, Warned
from ed2.models.files.description import assumed_prediction
from ed2.models.files.header import read_header
from ed2.models.files.tokens import MAX_TOKENS
from ed2.models.memory import release_memory
from ed2.sampling.sheet import contact_sheet
from ed2.small_files import is_file
from ed2.text import counted, plural
from ed2.training.controls import Controls
from ed2.training.loop import handle_requests, train
from ed2.training.recovery import require_savable
from ed2.training.state import Run

logger = logging.getLogger(__name__)

PROBLEMS_SHOWN = 5
SLOW_SUMS = (
    "This PyTorch has no NCCL, so gradients are added up in main memory, which is slow. On Windows, train in WSL2, "
    "which has NCCL."
)
SET_BY_ACCELERATE = "ACCELERATE_MIXED_PRECISION"
ONE_BY_ACCELERATE = (
    "accelerate has started one process, as it does without --multi_gpu. For several, use accelerate launch "
    "--multi_gpu --num_processes 2, or --num_processes of this program."
)


def execute(run: Run, spec: RunSpec, context: MainContext) -> RunEnded:
    """Train `run` to its end, a stop, or a failure, and save what can be saved.

    Raises:
        UpdateFailedError: the weights in memory are no longer usable. Nothing was saved.
    """
    with run.data:
        return Execution(run, spec, context).run_to_end()


def failed(error: Exception, spec: RunSpec, context: MainContext) -> RunEnded:
    """The end of a run that could not be built, or of which an update failed: nothing is saved."""
    log_error(error, "The run failed")
    step = context.state.step
    context.saver.join_all()
    fault = fault_of(error, spec.settings, spec.machine.device, make_rollback(context))
    draw_contact_sheet(context, step)
    checkpoint = fault.rollback_to.path if fault.rollback_to else None
    return RunEnded(step, "failed", fault.reason, context.seconds, checkpoint)


def make_rollback(context: MainContext) -> Rollback:
    """The rollback of a run, reporting the progress of its comparison."""
    return Rollback(context.run_dir, VerifyProgress(context.bus, Controls(), context.state.step, "stopping"))


@dataclass
class Execution:
    """A run from its first event to its last."""

    run: Run
    spec: RunSpec
    context: MainContext
    _saved: CheckpointSaved | None = None

    def run_to_end(self) -> RunEnded:
        """Do everything that the run does, and say how it ended, even where there is no memory left to end as usual."""
        try:
            return self._ended()
        except UpdateFailedError:
            raise  # the run is trained again from its last good checkpoint
        except Exception as error:
            reason = plain_reason(error)
        return self._short_end(reason)  # only here: the error holds on to the memory of its step

    def _ended(self) -> RunEnded:
        try:
            self._work()
        except StopRequested as stop:
            lost = self._save_at_end("interrupted" if self.run.controls.saving and stop.save else None)
            if lost:
                return self._end("failed", f"stopped, but not saved. {lost}", stop.signal_number)
            return self._end("stopped", self._how_saved(), stop.signal_number)
        except UpdateFailedError as error:
            logger.error("Step %d failed.", self.run.state.step + 1, exc_info=error)
            self.context.saver.join()  # the checkpoint being written may be the one to roll back to
            raise
        except Exception as error:
            log_error(error, "The run failed")
            self.context.saver.join()  # the checkpoint being written may be the one to roll back to
            fault = self._fault(error)
        else:
            return self._end("done", self.run.ended_early or "all epochs are done")
        self._saved = fault.rollback_to or self._saved
        what_then = self._save_at_end(fault.kind)  # only here: the error holds on to the memory of its step
        if not what_then and self._saved and not fault.rollback_to:
            what_then = f"Saved as {self._saved.path.name}, which can be resumed."
        return self._end("failed", f"{fault.reason} {what_then}".strip())

    def _work(self) -> None:
        run, bus = self.run, self.run.bus
        self._require_export()
        self._announce()
        shape = self.spec.sizes.shape
        watch_card(run, self.spec.settings, shape)
        bus.subscribe(SpeedWatch(self.spec.settings, shape, self.spec.machine.name))
        for job in run.jobs:
            bus.emit(job.at_start(run.state))
        handle_requests(run)
        bus.emit(PhaseChanged(run.state.step, "training"))
        run.metrics.restart_clocks()
        train(run)
        self._save_last()

    def _require_export(self) -> None:
        """Check before the first step whether the model fits into a single file."""
        saver = self.context.saver
        try:
            saver.saver.require_export(self.run.model)
        except ModelError as error:
            saver.disable_single_files()
            self.run.bus.emit(Warned(self.run.state.step, f"No single files are written. {error}"))

    def _announce(self) -> None:
        """Emit the run's first event, with everything that the user should know."""
        run, spec, dataset = self.run, self.spec, self.spec.dataset
        run.state.seconds += self.context.seconds
        notes = [*spec.notes, *_start_notes(spec, run)]
        notes += _left_out(dataset.problems, shown=0 if run.state.step else PROBLEMS_SHOWN)
        notes += [*start_lines(dataset), *_unread_note(dataset)]
        for text in space_notes(spec.settings, spec.sizes):
            run.bus.emit(Warned(run.state.step, text))
        run.bus.emit(
            RunStarted(
                step=run.state.step,
                project=spec.settings.run.project_name,
                run_dir=self.context.run_dir,
                total_steps=run.total_steps,
                epoch=run.state.epoch,
                max_epochs=run.max_epochs,
                images=len(dataset.examples),
                device=str(spec.machine),
                config=spec.settings.flat(),
                notes=tuple(notes),
            )
        )

    def _save_last(self) -> None:
        """Save the last checkpoint, or report the one that a finished run already has."""
        saver = self.context.saver
        self._saved = saver.saver.find_saved(self.run.state) if self.spec.needs_finishing else None
        if self._saved is None:
            self._saved = saver.finish(self.run, "last")
        elif not is_logged(self._saved.path):
            self.run.bus.emit(self._saved)

    def _save_at_end(self, kind: Kind | None) -> str:
        """Save after a stop or an error, if anything was trained; returns the reason if that failed."""
        run, saver = self.run, self.context.saver
        if kind is None or run.state.step == 0 or (run.finished and self._saved):
            return ""
        try:
            saver.join()
            self._saved = saver.saver.find_saved(run.state)
            if self._saved is None:
                require_savable(run)
                self._saved = saver.finish(run, "last" if run.finished else kind)
        except Exception as error:  # the end is reported whatever happens
            log_error(error, "Saving at the end failed", is_of_a_drive=True)
            fault = self._unsaved(error)
            self._saved = fault.rollback_to
            return fault.reason
        return ""

    def _short_end(self, reason: str) -> RunEnded:
        """The end of a run that failed while it was ending: it needs next to nothing, and says what is on the disk."""
        state, last = self.run.state, None
        with contextlib.suppress(Exception):
            release_memory(self.spec.machine.device)
            logger.error("The run failed while it was ending: %s.", reason)
            last = last_saved(self.context.run_dir)
        on_disk = f"Its newest checkpoint is {last.path.name}." if last else "It has no checkpoint."
        reason = f"The run failed while it was ending: {reason}. {on_disk}"
        return RunEnded(state.step, "failed", reason, self.context.seconds, last.path if last else None)

    def _how_saved(self) -> str:
        if self._saved:
            return "saved"
        is_new = self.run.state.step == 0
        return "before its first step, so there was nothing to save" if is_new else "not saved at its end"

    def _fault(self, error: Exception) -> Fault:
        if isinstance(error, CheckpointError):  # in the last save, which is not retried
            return self._unsaved(error)
        return fault_of(error, self.spec.settings, self.spec.machine.device, make_rollback(self.context))

    def _unsaved(self, error: Exception) -> Fault:
        required = self.context.saver.saver.required_bytes(self.run)
        return unsaved_fault(error, self.context.run_dir, self.run.state.step, required)

    def _end(self, phase: Literal["done", "stopped", "failed"], reason: str, signal_number: int = 0) -> RunEnded:
        self.context.saver.join_all()
        draw_contact_sheet(self.context, self.run.state.step)
        single_file = self._saved.single_file if self._saved else None
        return RunEnded(
            step=self.run.state.step,
            phase=phase,
            reason=reason,
            seconds=self.context.seconds,
            checkpoint=self._saved.path if self._saved else None,
            single_file=single_file if single_file and single_file.exists() else None,  # its check may rename it
            signal_number=signal_number,
            left_out=self.context.faults.count["unusable"],
            changed=self.context.faults.count["changed"],
        )


def _start_notes(spec: RunSpec, run: Run) -> list[str]:
    """What was chosen for the user, and what is worth knowing of settings, captions and batches, in sentences."""
    settings, device, examples = spec.settings, spec.machine.device, spec.dataset.examples
    notes = [_model_note(spec, run)]
    notes += optimizer_notes(settings, run.model.facts, device)
    notes += spec.machine.notes(settings.memory)
    data = settings.data
    planner = EpochPlanner(
        examples, seed=settings.run.seed, batch_size=data.batch_size, grad_accum=settings.batches_per_step
    )
    notes += [*spec.images.notes, *batch_notes(planner), *_lost_note(run)]
    length = RunLength(run.total_steps, len(examples), run.max_epochs)
    if run.ranks.is_staged:
        notes.append(SLOW_SUMS)
    if run.ranks.size == 1 and SET_BY_ACCELERATE in os.environ:
        notes.append(ONE_BY_ACCELERATE)
    notes += map(str, unsuitable(settings, spec.sizes, length))
    note = long_captions(examples, run.model.count_tokens, MAX_TOKENS * data.caption_chunks).sentence()
    return [*notes, note] if note else notes


def _lost_note(run: Run) -> list[str]:
    """What a resumed run leaves out because it was found damaged before."""
    count = len(run.state.lost)
    if not count:
        return []
    return [f"{counted(count, 'image')} {plural(count, 'was', 'were')} found damaged earlier in this run and left out."]


def _unread_note(dataset: Dataset) -> list[str]:
    """Which images may still turn out to be damaged."""
    count = dataset.num_unread
    if not count:
        return []
    new = f"{counted(count, 'image')} {plural(count, 'is', 'are')} new or changed, and not yet read in full"
    return [f"{new}: what is damaged is left out when its turn comes. --check reads every image."]


def _model_note(spec: RunSpec, run: Run) -> str:
    """What is trained and what it predicts, and whether that was only assumed."""
    family, process = run.model.facts, run.model.process
    predicted = {"epsilon": "noise (epsilon)"}.get(process.prediction_type, "velocity (v-prediction)")
    if process.is_zero_snr:
        predicted += " with zero terminal SNR"
    note = f"The model is {family.title} and predicts {predicted}."
    if spec.settings.model.prediction_type or not is_file(spec.base):
        return note
    return f"{note} {assumed_prediction(spec.base, family, read_header(spec.base))}".rstrip()


def draw_contact_sheet(context: MainContext, step: int) -> None:
    """Draw all samples of a run on one sheet; a failure is a warning."""
    try:
        contact_sheet(context.run_dir)
    except Exception as error:  # the end is reported whatever happens
        log_error(error, "The contact sheet failed", is_of_a_drive=True)
        context.bus.emit(Warned(step, f"The contact sheet could not be drawn: {plain_reason(error)}."))


def log_error(error: Exception, what: str, *, is_of_a_drive: bool = False) -> None:
    """Log an error, with its traceback unless that says nothing: a full disk may be met anywhere."""
    if isinstance(error, Ed2Error):
        logger.error("%s", error)
    elif is_of_a_drive and isinstance(error, OSError):
        logger.error("%s: %s.", what, plain_reason(error))
    else:
        logger.error("%s.", what, exc_info=error)


def _left_out(problems: Sequence[Finding], shown: int) -> list[str]:
    """Name the first files left out and count the rest; a resumed run has named them before."""
    lines = [f"Left out: {problem}" for problem in problems[:shown]]
    rest = len(problems) - shown
    if rest > 0:
        verb = "is" if rest == 1 else "are"
        lines.append(f"{counted(rest, 'more file' if shown else 'file')} {verb} left out; --check lists them all.")
    return lines
