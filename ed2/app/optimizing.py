"""What updates the weights of a run, from its settings: the optimizer of each network, and the EMA."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ed2.app.run_settings import FIND_LAST
from ed2.app.run_spec import RunSpec
from ed2.checkpoint.identity import EMA_SUFFIX, TRAINING_STATE, oldest_first
from ed2.errors import ModelError, Problem
from ed2.models.base import DiffusionModel, trained_parts
from ed2.models.families.clip import freeze_text_encoder
from ed2.models.families.facts import FamilyFacts, PartFacts
from ed2.models.parts import Part
from ed2.ranks.base import Ranks
from ed2.registry import OPTIMIZERS
from ed2.settings.checks import SHARDED_OPTIMIZERS
from ed2.settings.schema import PRODIGY_LR, Settings
from ed2.training.ema import Average, Ema, NoEma, decay_for_strength
from ed2.training.optimizer_factories import OptimizerOptions
from ed2.training.optimizers import Optimizers
from ed2.training.rounding import Rounding
from ed2.training.schedules import schedule_of
from ed2.training.shards import Shards
from ed2.training.state import Run


def build_optimizers(
    model: DiffusionModel, settings: Settings, device: torch.device, steps: int, ranks: Ranks
) -> Optimizers:
    """Freeze the layers that are not trained, and create an optimizer for the rest of each trained network.

    The whole run has `steps` updates; its `ranks` share the state out.

    Raises:
        SettingsError: an optional part is not installed.
    """
    own, trained = settings.text_encoder, trained_parts(model)
    for text_encoder in model.facts.text_encoders:
        if text_encoder.name in trained:
            freeze_text_encoder(
                trained[text_encoder.name].module,
                last_layers=own.unfreeze_last_n_layers,
                embeddings=own.freeze_embeddings,
                final_layer_norm=own.freeze_final_layer_norm,
            )
    by_network, shared_out = {}, list[Tensor]()
    facts = {name: model.facts.part(name) for name in trained}
    for name, part in trained.items():
        parameters = list(part.parameters().values())
        optimizer = settings.optimizer_of(facts[name], on_card=device.type == "cuda")
        by_network[name] = OPTIMIZERS.load(optimizer)(parameters, options_of(settings, facts[name]))
        if optimizer in SHARDED_OPTIMIZERS:
            shared_out += parameters
    return Optimizers(
        by_network,
        base_lrs={name: settings.rate_of(part) for name, part in facts.items()},
        schedules={name: schedule_of(settings, part, steps) for name, part in facts.items()},
        rounding=_rounding(trained, settings),
        shards=Shards.deal(shared_out, ranks.rank, ranks.size),
    )


def options_of(settings: Settings, part: PartFacts) -> OptimizerOptions:
    """How the optimizer of a network updates it."""
    values: dict[str, Any] = settings.flat()
    betas, epsilon, decay = (values[settings.setting_for(part, name)] for name in ("betas", "epsilon", "weight_decay"))
    return OptimizerOptions(
        settings.rate_of(part), betas=tuple(betas) if betas else None, epsilon=epsilon, weight_decay=decay
    )


def _rounding(trained: Mapping[str, Part], settings: Settings) -> Rounding | None:
    """How the weights of the trained parts are rounded; None if they are in fp32."""
    if settings.memory.weights_dtype == "fp32" or settings.model.method == "lora":
        return None
    names: dict[Tensor, str] = {}
    for network, part in trained.items():
        names |= {parameter: f"{network}/{name}" for name, parameter in part.parameters().items()}
    return Rounding(settings.run.seed, names)


def optimizer_notes(settings: Settings, family: FamilyFacts, device: torch.device) -> list[str]:
    """Notes on which optimizer trains which network, with warnings about unwise choices."""
    notes, warnings = [], []
    for part in settings.trained_networks(family):
        optimizer, rate = settings.optimizer_of(part, on_card=device.type == "cuda"), settings.rate_of(part)
        scheduler = settings.flat()[settings.setting_for(part, "lr_scheduler")]
        notes.append(f"Optimizer for the {part.title}: {optimizer}, learning rate {rate:g}, {scheduler}.")
        if optimizer == "prodigy" and rate < PRODIGY_LR / 10:
            warnings.append(f"Prodigy finds the rate of the {part.title} itself: lr is a factor on it, best left at 1.")
        if optimizer == "schedulefree" and scheduler != "constant":
            warnings.append(f"The {part.title}'s optimizer is made for a constant learning rate.")
    return notes + warnings


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
