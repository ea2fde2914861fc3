"""Events in words, for the terminal and the log."""

from collections.abc import Mapping
from functools import singledispatch

from ed2.curve_names import GRAD_NORM, GRAD_SCALE, IMAGES_PER_SECOND, LOSS, LR_TEXT_ENCODER, LR_UNET, VRAM
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
from ed2.text import counted, duration, file_size, shown_path

_FIGURES = {
    LOSS: "loss {:.4f}",
    LR_UNET: "learning rate {:.3g}",
    LR_TEXT_ENCODER: "learning rate of the text encoder {:.3g}",
    GRAD_SCALE: "loss scale {:g}",
    GRAD_NORM: "gradient {:.3g}",
    IMAGES_PER_SECOND: "{:.1f} images a second",
    VRAM: "{:.1f} GB of the card",
}
"""How the figures of a step are told, in this order, by their curve's tag; another curve is told by its tag."""


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


def key_figures(values: Mapping[str, float]) -> str:
    """Loss, learning rate and speed out of logged numbers, as far as they are there."""
    lr = values.get(LR_UNET, values.get(LR_TEXT_ENCODER))
    parts = [f"loss {values[LOSS]:.4f}"] if LOSS in values else []
    parts += [f"lr {lr:.2g}"] if lr is not None else []
    parts += [f"{values[IMAGES_PER_SECOND]:.1f} images/s"] if IMAGES_PER_SECOND in values else []
    return ", ".join(parts)
