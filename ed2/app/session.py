"""A run between its first event and its last: what it does, in order, and what is saved and told at its end."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from ed2.app.averaging import sample_weights
from ed2.app.build import Builder
from ed2.app.checks.space import space_notes
from ed2.app.completing import was_told
from ed2.app.faults import Fault, WentBack, fault_of
from ed2.app.memory.watch import watch_card
from ed2.app.preflight import model_sizes
from ed2.app.runs.unsaved import unsaved
from ed2.app.verifying import Verifying
from ed2.checkpoint.background import BackgroundSaver
from ed2.checkpoint.saver import Kind
from ed2.data.example import Finding
from ed2.data.loader import Loader
from ed2.data.report import sidecar_lines
from ed2.disk import plain_reason
from ed2.errors import CheckpointError, Ed2Error, ModelError, StopRequested
from ed2.events import CheckpointSaved, PhaseChanged, RunEnded, RunStarted, Warned
from ed2.sampling.job import SampleJob
from ed2.sampling.prompts import PromptFile
from ed2.sampling.sheet import contact_sheet
from ed2.settings.schema import Settings
from ed2.text import counted
from ed2.training.loop import handle_requests, train
from ed2.training.recovery import require_savable
from ed2.training.state import Run
from ed2.vram.card import Card
from ed2.vram.plan import sampling_batch
from ed2.vram.shapes import ModelShape, shape_of

logger = logging.getLogger(__name__)

PROBLEMS_SHOWN = 5


class Session:
    """A run between its first event and its last."""

    def __init__(self, builder: Builder, began: float) -> None:
        self._builder = builder
        self._bus, self._start = builder.bus, builder.start
        self._began = began
        self._run: Run | None = None
        self._saver = BackgroundSaver(builder.saver(), builder.bus)
        self._saved: CheckpointSaved | None = None

    def work(self) -> None:
        """Everything that a run does, in order."""
        with self._built() as run:
            self._require_export(run)
            samples = self._sample_job(run)
            checkpoints = self._builder.checkpoint_job(run, self._saver)
            validation = self._builder.validation_job(run)
            run.jobs += [*validation, samples, checkpoints]
            run.on_request = {"sample": samples, "save": checkpoints}
            self._tell_start(run)
            watch_card(run, self._start.settings, self._shape(self._start.settings))
            for job in validation:
                self._bus.emit(job.before_first_step(run.state))
            self._bus.emit(samples.before_first_step(run.state))
            handle_requests(run)
            self._bus.emit(PhaseChanged(run.state.step, "training"))
            run.metrics.restart_clocks()
            train(run)
            self._save_last(run)

    def end_of(self, work: Callable[[], None]) -> RunEnded:
        """Do `work` and say how it ended; what can be saved is saved."""
        try:
            work()
        except StopRequested as stop:
            lost = self._save_at_end("interrupted" if self._builder.controls.saving and stop.save else None)
            if lost:
                return self._ended("failed", f"stopped, but not saved. {lost}", stop.signal_number)
            return self._ended("stopped", self._how_saved(), stop.signal_number)
        except Exception as error:
            _log(error, "The run failed")
            self._saver.join()  # what it writes may be what the run goes back to
            fault = self._fault(error)
        else:
            return self._ended("done", "all epochs are done")
        self._saved = fault.goes_back_to or self._saved
        lost = self._save_at_end(fault.kind)  # not before: the error holds on to the memory of its step
        return self._ended("failed", f"{fault.reason} {lost}".strip())

    def _how_saved(self) -> str:
        if self._saved:
            return "saved"
        is_new = self._run is None or self._run.state.step == 0
        return "before its first step, so there was nothing to save" if is_new else "not saved at its end"

    def _fault(self, error: Exception) -> Fault:
        if isinstance(error, CheckpointError) and self._run is not None:  # the last save, which is not tried once more
            return self._unsaved(error, self._run)
        device = self._builder.machine.device
        comparing = Verifying(self._bus, None, self._run.state.step if self._run else 0, "stopping")
        back = WentBack(self._builder.run_dir, comparing)
        return fault_of(error, self._start.settings, device, back)

    def _unsaved(self, error: Exception, run: Run) -> Fault:
        return unsaved(error, self._builder.run_dir, run.state.step, self._saver.saver.required_bytes(run))

    @contextmanager
    def _built(self) -> Iterator[Run]:
        self._bus.emit(PhaseChanged(0, "preparing", f"reading the model {self._start.base.name}"))
        run = self._builder.build()
        if not isinstance(run.data, Loader):
            raise TypeError("the builder gives a Loader")
        with run.data:
            self._run = run
            yield run

    def _require_export(self, run: Run) -> None:
        """Know before the first step whether the model has a place in a single file."""
        try:
            self._saver.saver.require_export(run.model)
        except ModelError as error:
            self._saver.disable_single_files()
            self._bus.emit(Warned(run.state.step, f"No single files are written. {error}"))

    def _sample_job(self, run: Run) -> SampleJob:
        settings = self._start.settings
        prompts = PromptFile(
            path=Path(settings.sampling.sample_prompts),
            seed=settings.run.seed,
            resolution=settings.data.resolution,
            multiple=run.model.size_multiple,
            captions=tuple(example.caption for example in self._builder.dataset.examples if example.caption),
        )
        return SampleJob(
            model=run.model,
            prompts=prompts,
            run_dir=self._builder.run_dir,
            bus=self._bus,
            controls=run.controls,
            total_steps=run.total_steps,
            sample_steps=settings.sampling.sample_steps,
            batch_size=self._prompts_at_once(settings),
            autocast=run.precision.autocast,
            weights=sample_weights(run, settings),
        )

    def _prompts_at_once(self, settings: Settings) -> int:
        """As many as take no more memory than training does, so that samples are never the peak of a run."""
        card = Card(kind="cuda" if self._builder.machine.device.type == "cuda" else "cpu")
        return sampling_batch(settings, self._shape(settings), card=card)

    def _shape(self, settings: Settings) -> ModelShape:
        sizes = model_sizes(settings)
        return shape_of(sizes.family, sizes.parameters)

    def _tell_start(self, run: Run) -> None:
        dataset, settings = self._builder.dataset, self._start.settings
        run.state.seconds += time.monotonic() - self._began
        notes = [*self._start.notes, *self._builder.notes(), *self._builder.caption_notes(run.model)]
        notes += _left_out(dataset.problems, shown=0 if run.state.step else PROBLEMS_SHOWN)
        notes += sidecar_lines(dataset)
        for text in space_notes(settings, model_sizes(settings)):
            self._bus.emit(Warned(run.state.step, text))
        self._bus.emit(
            RunStarted(
                step=run.state.step,
                project=settings.run.project_name,
                run_dir=self._builder.run_dir,
                total_steps=run.total_steps,
                epoch=run.state.epoch,
                max_epochs=run.max_epochs,
                images=len(dataset.examples),
                device=str(self._builder.machine),
                config=settings.flat(),
                notes=tuple(notes),
            )
        )

    def _save(self, kind: Kind) -> None:
        if self._run is None:
            return
        self._saved = self._saver.finish(self._run, kind)

    def _save_last(self, run: Run) -> None:
        """Make the last checkpoint; where the run has gone on from it, only what was not told of it is told."""
        self._saved = self._saver.saver.find_saved(run.state) if self._start.lacks_end else None
        if self._saved is None:
            self._save("last")
        elif not was_told(self._saved.path):
            self._bus.emit(self._saved)

    def _save_at_end(self, kind: Kind | None) -> str:
        """Save what a stop or an error leaves, if anything was trained; gives what to tell where that failed."""
        run = self._run
        if run is None or kind is None or run.state.step == 0 or (run.finished and self._saved):
            return ""
        try:
            self._saver.join()
            self._saved = self._saver.saver.find_saved(run.state)
            if self._saved is None:
                require_savable(run)
                self._save("last" if run.finished else kind)
        except Exception as error:  # the run has ended, and its end is to be told whatever happens
            _log(error, "Saving at the end failed", is_of_a_drive=True)
            fault = self._unsaved(error, run)
            self._saved = fault.goes_back_to
            return fault.reason
        return ""

    def _ended(self, phase: Literal["done", "stopped", "failed"], reason: str, signal_number: int = 0) -> RunEnded:
        self._saver.join()
        step = self._run.state.step if self._run else 0
        self._draw_sheet(step)
        return RunEnded(
            step=step,
            phase=phase,
            reason=reason,
            seconds=time.monotonic() - self._began,
            checkpoint=self._saved.path if self._saved else None,
            single_file=self._saved.single_file if self._saved else None,
            signal_number=signal_number,
            left_out=self._builder.faults.count["unusable"],
            changed=self._builder.faults.count["changed"],
        )

    def _draw_sheet(self, step: int) -> None:
        try:
            contact_sheet(self._builder.run_dir)
        except Exception as error:  # the run has ended, and its end is to be told whatever happens
            _log(error, "The contact sheet failed", is_of_a_drive=True)
            self._bus.emit(Warned(step, f"The contact sheet could not be drawn: {plain_reason(error)}."))


def _log(error: Exception, what: str, *, is_of_a_drive: bool = False) -> None:
    """Write an error into the log, with where it was met unless that is of no use: a full disk is met anywhere."""
    if isinstance(error, Ed2Error):
        logger.error("%s", error)
    elif is_of_a_drive and isinstance(error, OSError):
        logger.error("%s: %s.", what, plain_reason(error))
    else:
        logger.error("%s.", what, exc_info=error)


def _left_out(problems: Sequence[Finding], shown: int) -> list[str]:
    """Name the first files that are left out, and count the rest; a run that goes on has named them before."""
    lines = [f"Left out: {problem}" for problem in problems[:shown]]
    rest = len(problems) - shown
    if rest > 0:
        verb = "is" if rest == 1 else "are"
        lines.append(f"{counted(rest, 'more file' if shown else 'file')} {verb} left out; --check lists them all.")
    return lines
