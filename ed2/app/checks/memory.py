"""The planned memory of a run beside the device that it is for, as text and as JSON."""

from dataclasses import dataclass

from ed2.app.measured import CARDS_FILE, Corrections
from ed2.app.preflight import ModelSizes
from ed2.settings.schema import Settings
from ed2.vram.card import Card, card_for
from ed2.vram.overhead import Overhead
from ed2.vram.plan import MemoryPlan, plan_memory
from ed2.vram.shapes import ModelShape

PART_NAMES = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "average": "EMA",
    "sums": "sums over processes",
    "autocast_copies": "mixed-precision copies",
    "activations": "activations",
    "temporaries": "temporary buffers",
    "context": "CUDA and reserve",
}
SMALLEST_SHOWN_GB = 0.05
PHASE_NAMES = {
    "caching": "while filling the latent cache",
    "encoding": "while encoding an image",
    "forward": "at the end of the forward pass",
    "backward": "in the backward pass",
    "optimizer": "during the optimizer update",
    "sampling": "while drawing samples",
    "validation": "in validation",
    "saving": "while saving a checkpoint",
}
VERDICTS = {"fits": "Fits.", "tight": "Tight: may run out of memory.", "does not fit": "Does not fit."}


@dataclass(frozen=True)
class MemoryReport:
    """A plan, the device it is for, and the overhead that was learned from that device."""

    plan: MemoryPlan
    card: Card
    shape: ModelShape
    overhead: Overhead | None = None

    def as_object(self) -> dict[str, object]:
        """The `memory` of `--check --json`."""
        return self.plan.as_object(self.card)

    def lines(self) -> list[str]:
        """The report as lines of text."""
        lines = [f"Memory: {verdict_line(self.plan, self.card)}"]
        lines += filter(None, [parts_line(self.plan, self.card)])
        if self.plan.verdict(self.card) not in (None, "fits"):
            lines.append("To find settings that fit, use --suggest.")
        if self.card.kind == "cpu":
            lines.append("To plan for a GPU, give its memory in GB: --vram_gb 12.")
        return [*lines, *self.plan.notes]


def report_memory(settings: Settings, sizes: ModelSizes, vram_gb: float | None = None) -> MemoryReport:
    """Plan for a GPU of `vram_gb`, else for the one in this computer, else for the CPU."""
    card = card_for(settings.run.device, vram_gb)
    shape = sizes.shape
    learned = Corrections(CARDS_FILE).overhead(card.name) if card.kind == "cuda" else None
    return MemoryReport(plan_memory(settings, shape, card=card, overhead=learned), card, shape, learned)


def verdict_line(plan: MemoryPlan, card: Card) -> str:
    """How much memory the run needs, how much there is, and whether it fits."""
    verdict = plan.verdict(card)
    return f"{amount_line(plan, card)} {VERDICTS[verdict]}" if verdict else amount_line(plan, card)


def amount_line(plan: MemoryPlan, card: Card) -> str:
    """How much memory the run needs, and how much there is."""
    amount = f"about {plan.expected_gb:.1f} GB ({plan.low_gb:.1f} to {plan.high_gb:.1f})"
    if card.kind == "cpu":
        return f"{amount} of system memory, on the CPU."
    if card.free_gb is None:
        return f"{amount} of GPU memory."
    source = "Measured on this GPU before" if plan.is_measured else "Planned, not measured on this GPU"
    return f"{amount}; {card.free_gb:.1f} GB free on {card.name}. {source}."


def part_names(card: Card) -> dict[str, str]:
    """What the parts of a plan are called on this device."""
    return {**PART_NAMES, "context": "Python and libraries"} if card.kind == "cpu" else PART_NAMES


def parts_line(plan: MemoryPlan, card: Card) -> str:
    """Where the peak is and what it consists of; the parts of a tiny model are left out, and nothing without any."""
    names = part_names(card)
    parts = [f"{names[name]} {size:.1f}" for name, size in plan.parts.items() if size >= SMALLEST_SHOWN_GB]
    return f"Peak {PHASE_NAMES[plan.peak]}: {', '.join(parts)} GB." if parts else ""
