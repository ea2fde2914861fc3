"""Which optimizer trains each network, and at what rate: from the settings, or chosen automatically."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ed2.app.checks.rates import rate_of
from ed2.models.base import DiffusionModel, trained_parts
from ed2.models.families.clip import freeze_text_encoder
from ed2.models.families.facts import FamilyFacts, PartFacts
from ed2.models.parts import Part
from ed2.ranks.base import Ranks
from ed2.registry import OPTIMIZERS
from ed2.settings.checks import SHARDED_OPTIMIZERS
from ed2.settings.schema import PRODIGY_LR, Settings
from ed2.training.optimizers import OptimizerOptions, Optimizers
from ed2.training.rounding import Rounding
from ed2.training.schedules import Schedule, make_schedule
from ed2.training.shards import Shards

OWN = "text_encoder_"
"""Prefix of the text encoders' own settings; the common setting applies if one is not set."""


@dataclass(frozen=True)
class NetworkPlan:
    """How one network is trained.

    Attributes:
        title: of the network, in sentences.
        optimizer: a name in `OPTIMIZERS`.
        scheduler: a name in `SCHEDULES`.
        warmup_steps: None chooses automatically.
        decay_steps: None ends where training ends.
    """

    title: str
    optimizer: str
    options: OptimizerOptions
    scheduler: str
    warmup_steps: int | None
    decay_steps: int | None

    def schedule(self, total_steps: int) -> Schedule:
        """The learning rate schedule of a run of `total_steps` updates."""
        return make_schedule(self.scheduler, self.warmup_steps, self.decay_steps, total_steps)

    def __str__(self) -> str:
        return f"{self.optimizer}, learning rate {self.options.lr:g}, {self.scheduler}"


def network_plans(settings: Settings, family: FamilyFacts, device: torch.device) -> dict[str, NetworkPlan]:
    """The plan of each trained network of a model of `family`."""
    return {name: _plan(family.part(name), settings, device) for name in settings.model.trained_parts(family)}


def build_optimizers(
    model: DiffusionModel, settings: Settings, device: torch.device, steps: int, ranks: Ranks
) -> Optimizers:
    """Freeze the layers that are not trained, and create an optimizer for the rest of each trained network.

    Args:
        model: with its trained parts.
        settings: what the user wants.
        device: that trains.
        steps: updates of the whole run.
        ranks: the processes that share the state out.

    Raises:
        SettingsError: an optional part is not installed.
    """
    own, plans = settings.text_encoder, network_plans(settings, model.facts, device)
    trained = trained_parts(model)
    for text_encoder in model.facts.text_encoders:
        if text_encoder.name in trained:
            freeze_text_encoder(
                trained[text_encoder.name].module,
                last_layers=own.unfreeze_last_n_layers,
                embeddings=own.freeze_embeddings,
                final_layer_norm=own.freeze_final_layer_norm,
            )
    by_network, shared_out = {}, list[Tensor]()
    for name, part in trained.items():
        parameters = list(part.parameters().values())
        by_network[name] = OPTIMIZERS.load(plans[name].optimizer)(parameters, plans[name].options)
        if plans[name].optimizer in SHARDED_OPTIMIZERS:
            shared_out += parameters
    return Optimizers(
        by_network,
        base_lrs={name: plans[name].options.lr for name in by_network},
        schedules={name: plans[name].schedule(steps) for name in by_network},
        rounding=_rounding(trained, settings),
        shards=Shards.deal(shared_out, ranks.rank, ranks.size),
    )


def _rounding(trained: Mapping[str, Part], settings: Settings) -> Rounding | None:
    """How the weights of the trained parts are rounded; None if they are in fp32."""
    if settings.memory.weights_dtype == "fp32" or settings.model.method == "lora":
        return None
    names: dict[Tensor, str] = {}
    for network, part in trained.items():
        names |= {parameter: f"{network}/{name}" for name, parameter in part.parameters().items()}
    return Rounding(settings.run.seed, names)


def optimizer_notes(plans: Mapping[str, NetworkPlan]) -> list[str]:
    """Notes on which optimizer trains which network, with warnings about unwise choices."""
    notes = [f"Optimizer for the {plan.title}: {plan}." for plan in plans.values()]
    for plan in plans.values():
        if plan.optimizer == "prodigy" and plan.options.lr < PRODIGY_LR / 10:
            notes.append(f"Prodigy finds the rate of the {plan.title} itself: lr is a factor on it, best left at 1.")
        if plan.optimizer == "schedulefree" and plan.scheduler != "constant":
            notes.append(f"The {plan.title}'s optimizer is made for a constant learning rate.")
    return notes


def _plan(part: PartFacts, settings: Settings, device: torch.device) -> NetworkPlan:
    common = settings.optimizer
    own = settings.text_encoder.model_dump() if part.is_text_encoder else {}

    def of(name: str) -> Any:
        value = own.get(OWN + name)
        return value if value is not None else getattr(common, name)

    optimizer = own.get("text_encoder_optimizer") or common.chosen(on_card=device.type == "cuda")
    lr = rate_of(settings, part)
    options = OptimizerOptions(lr, betas=of("betas"), epsilon=of("epsilon"), weight_decay=of("weight_decay"))
    return NetworkPlan(part.title, optimizer, options, of("lr_scheduler"), of("lr_warmup_steps"), of("lr_decay_steps"))
