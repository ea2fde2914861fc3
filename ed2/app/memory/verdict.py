"""The memory of a run against the card that it is for, in words and for JSON."""

from dataclasses import dataclass

from ed2.app.memory.corrections import CARDS_FILE, Corrections
from ed2.app.preflight import ModelSizes
from ed2.settings.schema import Settings
from ed2.vram.card import Card, card_for
from ed2.vram.plan import MemoryPlan, Overhead, plan_memory
from ed2.vram.shapes import ModelShape, shape_of

PART_NAMES = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "average": "moving average",
    "autocast_copies": "copies for mixed precision",
    "activations": "activations",
    "temporaries": "temporaries",
    "context": "CUDA and reserve",
}
SMALLEST_SHOWN_GB = 0.05
PHASE_NAMES = {
    "encoding": "while an image is encoded",
    "forward": "at the end of the forward pass",
    "backward": "in the backward pass",
    "optimizer": "while the optimizer steps",
    "sampling": "while samples are drawn",
    "validation": "in validation",
    "saving": "while a checkpoint is saved",
}


@dataclass(frozen=True)
class Planned:
    """What a run takes, and what there is; `overhead` is what was learnt of the card."""

    plan: MemoryPlan
    card: Card
    shape: ModelShape
    overhead: Overhead | None = None

    def as_object(self) -> dict[str, object]:
        """The `memory` of `--check --json`."""
        return self.plan.as_object(self.card)

    def lines(self) -> list[str]:
        """The same for people."""
        lines = [f"Memory: {verdict_line(self.plan, self.card)}", parts_line(self.plan, self.card)]
        if self.plan.verdict(self.card) not in (None, "fits"):
            lines.append("What to change so that it fits: --suggest.")
        if self.card.kind == "cpu":
            lines.append("To plan for a card, give its size: --vram_gb 12.")
        return [*lines, *self.plan.notes]


def planned(settings: Settings, sizes: ModelSizes, vram_gb: float | None = None) -> Planned:
    """Plan for a card of `vram_gb`, else for the one that is here, else for the CPU."""
    card = Card.of_size(vram_gb) if vram_gb else card_for(settings.run.device)
    shape = shape_of(sizes.family, sizes.parameters)
    learnt = Corrections(CARDS_FILE).overhead(card.name) if card.kind == "cuda" else None
    return Planned(plan_memory(settings, shape, card=card, overhead=learnt), card, shape, learnt)


def verdict_line(plan: MemoryPlan, card: Card) -> str:
    """How much it takes, of how much, and whether that suffices."""
    verdict = plan.verdict(card)
    if verdict is None:
        return amount_line(plan, card)
    words = {
        "fits": "It fits.",
        "tight": "It is tight, and may run out.",
        "does not fit": "It does not fit.",
    }
    return f"{amount_line(plan, card)} {words[verdict]}"


def amount_line(plan: MemoryPlan, card: Card) -> str:
    """How much it takes, and of how much."""
    amount = f"about {plan.expected_gb:.1f} GB ({plan.low_gb:.1f} to {plan.high_gb:.1f})"
    if card.kind == "cpu":
        return f"{amount} of the computer's own memory, on the CPU."
    if card.free_gb is None:
        return f"{amount} of a card."
    known = "measured on this card before" if plan.is_measured else "planned, not measured on this card"
    return f"{amount} of {card.free_gb:.1f} GB free on {card.name}; {known}."


def part_names(card: Card) -> dict[str, str]:
    """The parts of a plan for people."""
    return {**PART_NAMES, "context": "Python and its libraries"} if card.kind == "cpu" else PART_NAMES


def parts_line(plan: MemoryPlan, card: Card) -> str:
    """Where the peak is, and what it is made of; the parts of a tiny model are not worth a number."""
    names = part_names(card)
    parts = [f"{names[name]} {size:.1f}" for name, size in plan.parts.items() if size >= SMALLEST_SHOWN_GB]
    told = f": {', '.join(parts)} GB" if len(parts) > 1 else ""
    return f"The most is taken {PHASE_NAMES[plan.peak]}{told}."
