"""What is done with a checkpoint besides resuming it: its single file, and an image of a prompt."""

from collections.abc import Callable
from pathlib import Path

from ed2.app.build import read_model
from ed2.app.jobs import exporter_of
from ed2.app.run_settings import settings_of_checkpoint
from ed2.app.run_spec import Machine, open_model
from ed2.app.runs.records import single_file_of
from ed2.checkpoint.identity import name_of_run
from ed2.checkpoint.resume import require_sound
from ed2.errors import StopRequested
from ed2.models.compute import Precision
from ed2.models.files.description import Description
from ed2.models.files.folder_problems import SCHEDULER_CONFIG
from ed2.models.files.lora_base import LoraBase, is_lora_checkpoint, model_behind
from ed2.models.files.source import open_base
from ed2.models.memory import release_memory
from ed2.sampling.prompt import Prompt, rounded_size
from ed2.sampling.sampler import SampleOptions, draw_samples
from ed2.settings.files import with_defaults

TRIES_DIR = "tries"
"""Folder of a run for images that were drawn by hand."""
Tell = Callable[[str], None]
"""Shows the progress; raises StopRequested where it should stop."""


def export_single_file(checkpoint: Path, tell: Tell) -> Path:
    """Write the single file of a checkpoint, unless its run has written it already; returns its path.

    Raises:
        Ed2Error: the checkpoint is damaged.
        OSError: the file cannot be written.
    """
    if found := single_file_of(checkpoint):
        return found
    settings = with_defaults(settings_of_checkpoint(checkpoint))
    exporter = exporter_of(settings, name_of_run(checkpoint.parent.parent))
    _require_sound(checkpoint, tell)
    tell("Writing the single file.")
    if is_lora_checkpoint(checkpoint):
        base = LoraBase.read(checkpoint)
        return exporter.write(checkpoint, base.family, base.prediction_type)
    source = open_base(checkpoint, {})
    description = Description.of_scheduler(source.config(SCHEDULER_CONFIG))
    return exporter.write(checkpoint, source.family, description.prediction_type)


def draw_prompt(checkpoint: Path, text: str, seed: int, cfg: float, tell: Tell) -> Path:
    """Draw an image of a prompt as the run draws its samples; returns the image, in the run's folder.

    Raises:
        Ed2Error: the checkpoint is damaged, or its base model is gone.
        OSError: the image cannot be written.
        RuntimeError: out of memory, among others.
    """
    settings = with_defaults(settings_of_checkpoint(checkpoint))
    _require_sound(checkpoint, tell)
    tell("Reading the model.")
    machine = Machine.of(settings)
    source = open_model(settings, model_behind(checkpoint, settings.lora.lora_base))
    try:
        model = read_model(settings, source, machine, checkpoint)
        side = settings.data.resolution
        prompt = Prompt(0, text, seed, rounded_size(side, side, model.size_multiple), cfgs=(cfg,))
        options = SampleOptions(
            autocast=Precision(machine.device, machine.dtype).autocast,
            on_step=lambda at_once, place, total: tell(f"Drawing: step {place} of {total}."),
        )
        drawn = next(draw_samples(model, [prompt], options), None)
    finally:
        release_memory(machine.device)
    if drawn is None:
        raise StopRequested
    folder = checkpoint.parent.parent / TRIES_DIR
    folder.mkdir(exist_ok=True)
    place = _free_name(folder, f"{checkpoint.name}-seed{seed}-cfg{cfg:g}")
    drawn.tiles[0].save(place)
    return place


def _require_sound(checkpoint: Path, tell: Tell) -> None:
    def compared(name: str, done: int, total: int) -> None:
        tell(f"Checking {name}: {done / max(1, total):.0%}.")

    require_sound(checkpoint, with_state=False, progress=compared)


def _free_name(folder: Path, stem: str) -> Path:
    number = 1
    while (path := folder / f"{stem}-{number}.png").exists():
        number += 1
    return path
