"""Events in words, for the terminal and the log."""

import re
from collections.abc import Mapping
from functools import singledispatch
from pathlib import Path

from ed2.events import (
    CheckpointSaved,
    EpochEnded,
    Event,
    MemoryMeasured,
    MetricsLogged,
    PhaseChanged,
    RunEnded,
    RunStarted,
    SamplesMade,
    SavingChanged,
    ValidationDone,
    Warned,
)

LOSS = "loss/log_step"
SPEED = "performance/images per second"
LR_UNET = "hyperparameter/lr unet"
LR_TEXT_ENCODER = "hyperparameter/lr text encoder"
_FIGURES = {
    LOSS: "loss {:.4f}",
    LR_UNET: "learning rate {:.3g}",
    LR_TEXT_ENCODER: "learning rate of the text encoder {:.3g}",
    "hyperparameter/grad scale": "loss scale {:g}",
    "optimizer/grad_norm": "gradient {:.3g}",
    SPEED: "{:.1f} images a second",
    "performance/vram": "{:.1f} GB of the card",
}
"""How the figures of a step are told, in this order, by their curve's tag; another curve is told by its tag."""
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


@singledispatch
def described(event: Event) -> str:
    """What happened, in a short sentence; empty for what is not worth one."""
    return ""


@described.register
def _(event: RunStarted) -> str:
    begin = f"Continuing {event.project} after step {event.step}" if event.step else f"Training {event.project}"
    return (
        f"{begin}: {counted(event.images, 'image')}, {counted(event.max_epochs, 'epoch')}, "
        f"{counted(event.total_steps, 'step')}, on {event.device}."
    )


@described.register
def _(event: PhaseChanged) -> str:
    doing = "drawing samples" if event.phase == "sampling" else event.phase
    return f"Now {doing}" + (f": {event.detail}." if event.detail else ".")


@described.register
def _(event: MetricsLogged) -> str:
    known = [text.format(event.values[tag]) for tag, text in _FIGURES.items() if tag in event.values]
    others = [f"{tag} {value:.4g}" for tag, value in event.values.items() if tag not in _FIGURES]
    return f"Step {event.step}: {', '.join(known + others)}."


@described.register
def _(event: ValidationDone) -> str:
    return f"Step {event.step}, validation: " + ", ".join(f"{tag} {value:.4f}" for tag, value in event.values.items())


@described.register
def _(event: EpochEnded) -> str:
    return f"Epoch {event.epoch + 1} is done: loss {event.loss:.4f}, {event.minutes:.2f} minutes."


@described.register
def _(event: SamplesMade) -> str:
    where = shown_path(event.samples[0].path.parent) if event.samples else ""
    return f"Step {event.step}: {counted(len(event.samples), 'sample')} in {where} ({duration(event.seconds)})."


@described.register
def _(event: SavingChanged) -> str:
    return "Saving a checkpoint." if event.is_saving else ""


@described.register
def _(event: CheckpointSaved) -> str:
    cost = f"{file_size(event.bytes_written)}, {duration(event.seconds)}"
    single = f", single file {shown_path(event.single_file)}" if event.single_file else ""
    return f"Step {event.step}: saved {event.path.name} ({cost}) in {shown_path(event.path.parent)}{single}."


@described.register
def _(event: MemoryMeasured) -> str:
    planned = f"planned {event.planned_gb:.1f} GB ({event.low_gb:.1f} to {event.high_gb:.1f})"
    return f"Memory of the card at the peak of {event.what}: {planned}, measured {event.measured_gb:.1f} GB."


@described.register
def _(event: Warned) -> str:
    return event.text


@described.register
def _(event: RunEnded) -> str:
    words = {"done": "Done", "stopped": "Stopped", "failed": "Failed"}
    begin = f"{words[event.phase]} after {counted(event.step, 'step')} in {duration(event.seconds)}"
    outcome = told_end(event)
    return f"{begin}: {outcome}" if outcome else f"{begin}."


def told_end(event: RunEnded) -> str:
    """Why a run has ended, and how many images were not as they had been at its start."""
    lost, changed = event.left_out, event.changed
    told = [f"{counted(lost, 'image')} could no longer be read and {was(lost)} left out."] if lost else []
    told += [f"{counted(changed, 'image')} {was(changed)} changed meanwhile."] if changed else []
    reason = f"{event.reason.rstrip('.')}." if event.reason and told else event.reason
    return " ".join([reason, *told]).strip()


def was(number: int) -> str:
    """The verb for a number of things."""
    return "was" if number == 1 else "were"


def plain(text: str) -> str:
    """The text without colours and other orders to a terminal, which a message of a library may hold."""
    return _ANSI.sub("", text)


def counted(number: int, word: str) -> str:
    """A number of things: "1 step", "2 steps", "12,000 steps"."""
    return f"{number:,} {word}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """A time in its two largest units: "2 h 5 min", "3 min 20 s", "4.2 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def file_size(num_bytes: int) -> str:
    """Bytes as people count them: "6.5 MB", "2.1 GB", by thousands."""
    size = float(num_bytes)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def shown_path(path: Path) -> str:
    """A path from where the person stands, where it lies below; else in full."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def key_figures(values: Mapping[str, float]) -> str:
    """Loss, learning rate and speed out of logged numbers, as far as they are there."""
    lr = values.get(LR_UNET, values.get(LR_TEXT_ENCODER))
    parts = [f"loss {values[LOSS]:.4f}"] if LOSS in values else []
    parts += [f"lr {lr:.2g}"] if lr is not None else []
    parts += [f"{values[SPEED]:.1f} images/s"] if SPEED in values else []
    return ", ".join(parts)
