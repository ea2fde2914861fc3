"""The moving average of a run's weights: made from the settings, and what samples are drawn with."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ed2.app.run_settings import FIND_LAST
from ed2.app.run_spec import RunSpec
from ed2.checkpoint.identity import EMA_SUFFIX, TRAINING_STATE, oldest_first
from ed2.errors import ModelError, Problem
from ed2.models.base import DiffusionModel, trained_parts
from ed2.models.families.facts import FamilyFacts
from ed2.models.parts import Part
from ed2.settings.schema import Settings
from ed2.training.ema import Ema, NoEma, decay_for_strength
from ed2.training.state import Average, Run


def build_ema(model: DiffusionModel, spec: RunSpec, *, total_steps: int) -> Average:
    """The average that the settings ask for, or a null object.

    A resumed run restores its average later instead of starting it from these weights.

    Raises:
        ModelError: the initial weights cannot be read.
    """
    own, checkpoint, device = spec.settings.ema, spec.checkpoint, spec.machine.device
    if not own.is_on:
        return NoEma()
    decay = own.ema_decay_rate or 0.0
    if own.ema_strength_target is not None:
        decay = decay_for_strength(own.ema_strength_target, total_steps=total_steps, interval=own.ema_update_interval)
    place = device if own.ema_device == "cuda" else torch.device("cpu")
    ema = Ema(trained_parts(model), decay, own.ema_update_interval, place)
    if own.ema_resume_model and not (checkpoint and any((checkpoint.path / TRAINING_STATE).glob("ema-*"))):
        folder = Path(own.ema_resume_model)
        if own.ema_resume_model == FIND_LAST:
            folder = _newest_average(Path(spec.settings.logging.logdir))
        _start_from(ema, folder, model.facts)
    return ema


def sample_weights(run: Run, settings: Settings) -> list[Callable[[], AbstractContextManager[None]]]:
    """What samples are drawn with, the average first."""
    chosen: list[Callable[[], AbstractContextManager[None]]] = []
    if isinstance(run.ema, Ema) and settings.ema.samples_average:
        chosen.append(run.ema.in_place)
    if settings.ema.samples_trained or not chosen:
        chosen.append(run.optimizers.averaged)
    return chosen


def _start_from(ema: Ema, folder: Path, facts: FamilyFacts) -> None:
    try:
        ema.restore({name: _weights(folder / facts.part(name).file, part) for name, part in ema.parts.items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        what = f"the average in {folder} cannot be used ({str(error).splitlines()[0][:200]})."
        problem = Problem("ema_resume_model", what, "Give a diffusers folder of the same model.")
        raise ModelError("The EMA cannot start:", [problem]) from error


def _weights(file: Path, part: Part) -> dict[str, Tensor]:
    """A part's weights by the names of its module, which for the text encoder depend on the version of transformers."""
    tensors = load_file(file)
    return {**tensors, **{name.removeprefix(part.saved_prefix): tensor for name, tensor in tensors.items()}}


def _newest_average(logdir: Path) -> Path:
    found = [folder for folder in logdir.glob(f"*/ckpts/[!.]*{EMA_SUFFIX}") if folder.is_dir()]
    if not found:
        problem = Problem("ema_resume_model", f"there is no average in {logdir}.", "Give its folder, or leave it out.")
        raise ModelError("The EMA cannot start:", [problem])
    return oldest_first(found)[-1]
