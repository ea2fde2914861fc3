"""The run in a terminal: a progress bar and short lines; in a pipe or a file, lines alone."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import singledispatchmethod
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from ed2.app.reporters.log import describe, lines_of
from ed2.curve_names import IMAGES_PER_SECOND, LOSS, main_lr
from ed2.events import (
    CheckpointSaved,
    Event,
    MetricsLogged,
    PhaseChanged,
    Progressed,
    RunEnded,
    RunStarted,
    SamplesMade,
    StepDone,
    Warned,
)
from ed2.sampling.images import SAMPLES_DIR
from ed2.sampling.sheet import SHEET_NAME
from ed2.settings.files import PROGRAM_DIR, TRAIN_COMMAND
from ed2.settings.schema import LoggingSettings
from ed2.terminal import raw_stream
from ed2.text import as_record, rough_duration, shown_path

LINE_SECONDS = 10.0
"""The longest time between two lines where there is no progress bar."""


@dataclass
class ConsoleReporter:
    """Prints a run to `stream`: with a progress bar to a terminal, without control characters elsewhere.

    Attributes:
        clock: seconds; for tests.
    """

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    clock: Callable[[], float] = time.monotonic
    _run: RunStarted | None = None
    _bar: "tqdm[Any] | None" = None
    _figures: str = ""
    _held: str = ""  # the line about a step, whose figures may be the next event
    _line_at: float = 0.0
    _first: tuple[int, float] | None = None  # step and time after the first step, for the time left

    def __call__(self, event: Event) -> None:
        """Print an event, if it is worth a line."""
        if self._held and not isinstance(event, MetricsLogged):
            self._write(self._held)
        self._held = ""
        self._print(event)

    def close(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @singledispatchmethod
    def _print(self, event: Event) -> None:
        """Events without a function below go to the log alone."""

    @_print.register
    def _(self, event: RunStarted) -> None:
        self._run, self._first, self._line_at = event, None, self.clock()
        for text in lines_of(event):
            self._write(text)
        self._write(f"Run folder: {shown_path(event.run_dir)}")
        if self.stream.isatty():
            form = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]"
            self._bar = tqdm(
                total=event.total_steps,
                initial=event.step,
                file=raw_stream(self.stream),
                dynamic_ncols=True,
                bar_format=form,
            )
            self._bar.set_description_str(self._epoch_text(event.epoch))

    @_print.register
    def _(self, event: StepDone) -> None:
        if self._first is None:
            self._first = event.step, self.clock()
        if self._bar is not None:
            self._bar.set_description_str(self._epoch_text(event.epoch), refresh=False)
            self._bar.update(event.step - self._bar.n)
        elif self.clock() - self._line_at >= LINE_SECONDS:
            self._held = self._progress_line(event.step)

    @_print.register
    def _(self, event: MetricsLogged) -> None:
        self._figures = _key_figures(event.values) or self._figures
        if self._bar is not None:
            self._bar.set_postfix_str(self._figures)
        else:
            self._write(self._progress_line(event.step))

    @_print.register
    def _(self, event: PhaseChanged) -> None:
        if self._bar is not None and event.phase != "training":
            self._bar.set_description_str(event.phase)
        elif self._bar is None and event.phase in ("preparing", "caching", "sampling"):
            self._write(describe(event))

    @_print.register
    def _(self, event: Progressed) -> None:
        if not event.left:  # a matter of seconds
            return
        text = f"{event.doing} {event.place:,} of {event.total:,}{event.left}"
        if self._bar is not None:
            self._bar.set_description_str(text)
        elif self.clock() - self._line_at >= LINE_SECONDS:
            self._line_at = self.clock()
            self._write(f"{text[0].upper()}{text[1:]}.")

    @_print.register(SamplesMade)
    @_print.register(CheckpointSaved)
    def _(self, event: Event) -> None:
        self._write(describe(event))

    @_print.register
    def _(self, event: Warned) -> None:
        self._write(f"Note: {event.text}")

    @_print.register
    def _(self, event: RunEnded) -> None:
        self.close()
        self._write(describe(event))
        for label, place in self._results(event):
            self._write(f"  {label:<12} {place}")

    def _results(self, event: RunEnded) -> list[tuple[str, str]]:
        """The results to look at or to resume from, and where they are."""
        rows = [("Checkpoint", event.checkpoint), ("Single file", event.single_file)]
        if self._run:
            run_dir = self._run.run_dir
            rows = [("Run folder", run_dir), *rows, ("Samples", _samples(run_dir))]
        made = [(label, shown_path(path)) for label, path in rows if path is not None]
        if self._run:
            program = Path(sys.executable).with_name("tensorboard")  # in `.venv`, which is not on the PATH
            made.append(("Curves", f"{_in_quotes(program)} --logdir {_in_quotes(run_dir.parent)}"))
        if event.phase != "done" and event.checkpoint is not None:
            made.append(("Resume with", f"{TRAIN_COMMAND} --resume_ckpt findlast{self._own_logdir()}"))
        return made

    def _own_logdir(self) -> str:
        """The flag that lets `findlast` find this run, if its folder is not the usual one."""
        if self._run is None:
            return ""
        logdir = self._run.run_dir.absolute().parent
        if logdir == (PROGRAM_DIR / LoggingSettings().logdir).absolute():
            return ""
        return f' --logdir "{logdir}"'

    def _epoch_text(self, epoch: int) -> str:
        max_epochs = self._run.max_epochs if self._run else 0
        return f"Epoch {min(epoch + 1, max_epochs)}/{max_epochs}"

    def _progress_line(self, step: int) -> str:
        self._line_at = self.clock()
        total = self._run.total_steps if self._run else 0
        parts = [f"Step {step}/{total}", self._figures, self._time_left(step, total)]
        return ", ".join(part for part in parts if part) + "."

    def _time_left(self, step: int, total: int) -> str:
        if self._first is None or step <= self._first[0] or step >= total:
            return ""
        seconds_per_step = (self.clock() - self._first[1]) / (step - self._first[0])
        return f"about {rough_duration(seconds_per_step * (total - step))} left"

    def _write(self, text: str) -> None:
        encoding = self.stream.encoding or "utf-8"
        # A Windows console may not support every character.
        text = as_record(text).encode(encoding, "replace").decode(encoding)
        if self._bar is not None:
            self._bar.write(text, file=raw_stream(self.stream))
        else:
            self.stream.write(text + "\n")
        self.stream.flush()


def _samples(run_dir: Path) -> Path | None:
    """The contact sheet, or the folder of samples, or nothing."""
    folder = run_dir / SAMPLES_DIR
    for path in (folder / SHEET_NAME, folder):
        if path.exists():
            return path
    return None


def _key_figures(values: Mapping[str, float]) -> str:
    """Loss, learning rate and speed, as far as they were logged."""
    texts = []
    if LOSS in values:
        texts.append(f"loss {values[LOSS]:.4f}")
    lr = main_lr(values)
    if lr is not None:
        texts.append(f"lr {lr:.2g}")
    if IMAGES_PER_SECOND in values:
        texts.append(f"{values[IMAGES_PER_SECOND]:.1f} images/s")
    return ", ".join(texts)


def _in_quotes(path: Path) -> str:
    """A path quoted for a command line, on Windows too."""
    text = shown_path(path)
    return f'"{text}"' if " " in text else text
