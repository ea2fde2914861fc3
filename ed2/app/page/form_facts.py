"""What the form says beside its settings: which of them apply now, and what holds where one is left empty."""

from collections.abc import Mapping

from ed2.app.checks.rates import rate_of, trained_networks
from ed2.models.families.facts import FamilyFacts
from ed2.settings.effect import idle
from ed2.settings.schema import Settings
from ed2.text import listed


def not_applicable(settings: Settings, family: FamilyFacts) -> dict[str, str]:
    """The settings that the form need not show, with the reason."""
    found = dict(idle(settings, family))
    if not settings.optimizer.useadam8bit:
        found["useadam8bit"] = "the setting optimizer shows which optimizer is in force"
    return found


def in_force(settings: Settings, family: FamilyFacts, *, on_gpu: bool) -> Mapping[str, str]:
    """A sentence on what holds, by the setting that decides it: the optimizer and learning rate of each network.

    Args:
        settings: of the run.
        family: of the base model.
        on_gpu: whether it trains on a GPU, which decides the default.
    """
    networks = trained_networks(settings, family)
    if not networks:
        return {}
    common, own = settings.optimizer.chosen(on_card=on_gpu), settings.text_encoder.text_encoder_optimizer
    names = {part.title: (own if part.is_text_encoder else None) or common for part in networks}
    rates = {part.title: f"{rate_of(settings, part):g}" for part in networks}
    is_default = settings.optimizer.optimizer is None and not settings.optimizer.useadam8bit
    default = f", the default on a {'GPU' if on_gpu else 'CPU'}" if is_default else ""
    return {"optimizer": f"In force: {_by_network(names)}{default}.", "lr": f"In force: {_by_network(rates)}."}


def _by_network(values: Mapping[str, str]) -> str:
    """The value of each network, or the one that all have: "1e-06 for the UNet and 5e-07 for the text encoder"."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return listed([f"{value} for the {title}" for title, value in values.items()])
