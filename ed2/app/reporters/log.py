"""`run.log`: the events of a run in words, with times. The terminal and the page use the same words."""

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from functools import singledispatch
from pathlib import Path

from ed2.app.reporters.growing import GrowingFile
from ed2.curve_names import (
    GRAD_NORM,
    GRAD_SCALE,
    IMAGES_PER_SECOND,
    LOSS,
    LR_TEXT_ENCODER,
    LR_TEXT_ENCODER_2,
    LR_UNET,
    VRAM,
)
from ed2.errors import LogWriteError
from ed2.events import (
    CheckpointSaved,
    EpochEnded,
    Event,
    ImagesMeasured,
    MemoryMeasured,
    MetricsLogged,
    PhaseChanged,
    RunEnded,
    RunStarted,
    SamplesMade,
    SavingChanged,
    SingleFileChecked,
    StepDone,
    ValidationDone,
    Warned,
)
from ed2.text import as_record, counted, duration, file_size, plural, shown_path

_METRICS = {
    LOSS: "loss {:.4f}",
    LR_UNET: "learning rate {:.3g}",
    LR_TEXT_ENCODER: "text encoder learning rate {:.3g}",
    LR_TEXT_ENCODER_2: "second text encoder learning rate {:.3g}",
    GRAD_SCALE: "loss scale {:g}",
    GRAD_NORM: "gradient norm {:.3g}",
    IMAGES_PER_SECOND: "{:.1f} images/s",
    VRAM: "{:.1f} GB of GPU memory",
}
"""How the metrics of a step are written, in this order; any other is preceded by the name of its curve."""

LOG_NAME = "run.log"
PROGRAM = "ed2"
PYTHON_WARNINGS = "py.warnings"
TIME = "%Y-%m-%dT%H:%M:%S%z"

logger = logging.getLogger(__name__)


def lines_of(event: Event) -> list[str]:
    """An event in lines: what happened, if it is worth one, and the notes of a run that starts."""
    lines = [describe(event)]
    if isinstance(event, RunStarted):
        lines += event.notes
    return [line for line in lines if line]


@singledispatch
def describe(event: Event) -> str:
    """A short sentence on what happened; empty for events that are not worth one."""
    return ""


@describe.register
def _(event: RunStarted) -> str:
    begin = f"Training {event.project}"
    if event.step:
        begin = f"Continuing {event.project} after step {event.step}"
    return (
        f"{begin}: {counted(event.images, 'image')}, {counted(event.max_epochs, 'epoch')}, "
        f"{counted(event.total_steps, 'step')}, on {event.device}."
    )


@describe.register
def _(event: PhaseChanged) -> str:
    if event.phase in ("validating", "training"):  # what comes of them follows on lines of its own
        return ""
    text = event.phase.replace("sampling", "drawing samples")
    if event.detail:
        text += f": {event.detail}"
    return f"{text[0].upper()}{text[1:]}."


@describe.register
def _(event: MetricsLogged) -> str:
    known = [text.format(event.values[tag]) for tag, text in _METRICS.items() if tag in event.values]
    others = [f"{tag} {value:.4g}" for tag, value in event.values.items() if tag not in _METRICS]
    return f"Step {event.step}: {', '.join(known + others)}."


@describe.register
def _(event: ValidationDone) -> str:
    return f"Step {event.step}, validation: " + ", ".join(f"{tag} {value:.4f}" for tag, value in event.values.items())


@describe.register
def _(event: ImagesMeasured) -> str:
    lowest, highest = min(event.losses.values()), max(event.losses.values())
    return f"Step {event.step}, loss per image: {lowest:.4f} to {highest:.4f}, {counted(len(event.losses), 'image')}."


@describe.register
def _(event: EpochEnded) -> str:
    return f"Epoch {event.epoch + 1} done in {duration(60 * event.minutes)}: loss {event.loss:.4f}."


@describe.register
def _(event: SamplesMade) -> str:
    where = shown_path(event.samples[0].path.parent) if event.samples else ""
    return f"Step {event.step}: {counted(len(event.samples), 'sample')} in {where} ({duration(event.seconds)})."


@describe.register
def _(event: SavingChanged) -> str:
    return "Saving a checkpoint." if event.is_saving else ""


@describe.register
def _(event: CheckpointSaved) -> str:
    cost = f"{file_size(event.bytes_written)}, {duration(event.seconds)}"
    where = shown_path(event.path.parent)
    if event.single_file:
        opened = f"(opens as {event.opens_as}) " if event.opens_as else ""
        where += f", single file {opened}{shown_path(event.single_file)}"
    return f"Step {event.step}: saved {event.path.name} ({cost}) in {where}."


@describe.register
def _(event: SingleFileChecked) -> str:
    return f"{event.path.name} {event.text}."


@describe.register
def _(event: MemoryMeasured) -> str:
    planned = f"planned {event.planned_gb:.1f} GB ({event.low_gb:.1f} to {event.high_gb:.1f})"
    return f"Peak GPU memory while {event.what}: {planned}, measured {event.measured_gb:.1f} GB."


@describe.register
def _(event: Warned) -> str:
    return event.text


@describe.register
def _(event: RunEnded) -> str:
    words = {"done": "Done", "stopped": "Stopped", "failed": "Failed"}
    begin = f"{words[event.phase]} after {counted(event.step, 'step')} in {duration(event.seconds)}"
    outcome = describe_end(event)
    return f"{begin}: {outcome}" if outcome else f"{begin}."


def describe_end(event: RunEnded) -> str:
    """Why a run ended, and how many of its images were lost or changed while it ran."""
    notes = []
    if event.left_out:
        were = plural(event.left_out, "was", "were")
        notes.append(f"{counted(event.left_out, 'image')} could not be read and {were} left out.")
    if event.changed:
        notes.append(
            f"{counted(event.changed, 'image')} {plural(event.changed, 'was', 'were')} changed during the run."
        )
    reason = f"{event.reason.rstrip('.')}." if event.reason and notes else event.reason
    return " ".join([reason, *notes]).strip()


class LogHandler(logging.Handler):
    """Writes a log; a full disk is reported on the page instead of by tracebacks in the terminal."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = GrowingFile(path, f"The log {path.name}")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; one that cannot be written now is written later, one that cannot be formatted is dropped."""
        with suppress(LogWriteError, TypeError, ValueError):
            self._file.write(f"{as_record(self.format(record))}\n".encode(errors="backslashreplace"))

    def finish(self) -> str:
        """Close the file; says what was lost."""
        super().close()
        return self._file.close()


@dataclass
class LogReporter:
    """Writes events, log messages and Python warnings to `run.log`, from its creation until `close`."""

    run_dir: Path
    _handler: LogHandler = field(init=False, repr=False)
    _level: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._handler = LogHandler(self.run_dir / LOG_NAME)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", TIME))
        program = logging.getLogger(PROGRAM)
        self._level = program.level
        program.setLevel(logging.INFO)
        for name in (PROGRAM, PYTHON_WARNINGS):
            logging.getLogger(name).addHandler(self._handler)
        logging.captureWarnings(True)

    def __call__(self, event: Event) -> None:
        """Write an event."""
        if isinstance(event, StepDone):
            return
        level = logging.WARNING if isinstance(event, Warned) else logging.INFO
        for text in lines_of(event):
            logger.log(level, "%s", text)

    def close(self) -> str:
        """Restore the loggers and close the file; says what was lost."""
        logging.captureWarnings(False)
        for name in (PROGRAM, PYTHON_WARNINGS):
            logging.getLogger(name).removeHandler(self._handler)
        logging.getLogger(PROGRAM).setLevel(self._level)
        return self._handler.finish()
