"""The memory that a run will take at its peak, told from its settings alone: no card and no PyTorch needed.

A run goes through phases - encoding of images, forward pass, backward pass, optimizer, sampling, validation, saving -
of which each takes what the others leave behind: gradients grow while activations shrink. The peak is the largest of
them, not the sum of all.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ed2.settings.schema import Settings
from ed2.vram import phases
from ed2.vram.card import BYTES_PER_GB, Card, Verdict
from ed2.vram.shapes import ModelShape
from ed2.vram.work import Beyond, Work


@dataclass(frozen=True)
class Overhead:
    """From what PyTorch's tensors take to what the card shows as taken.

    Attributes:
        reserved: what PyTorch holds for each byte of tensors, lowest, expected and highest.
        context_gb: what CUDA and its libraries take for themselves.
        allocated: tensors measured for each byte planned.
        is_measured: whether the figures come from the card itself.
    """

    reserved: tuple[float, float, float]
    context_gb: tuple[float, float, float]
    allocated: float = 1.0
    is_measured: bool = False


ON_CARD = Overhead(reserved=(1.02, 1.05, 1.08), context_gb=(0.35, 0.5, 1.0))
"""Reserved over allocated from replays of traces through the allocator's rules, the rest judged: not measured."""
ON_CPU = Overhead(reserved=(1.0, 1.05, 1.3), context_gb=(0.5, 0.9, 1.5))
"""Python and its libraries beside the tensors, in the computer's own memory."""


@dataclass(frozen=True)
class MemoryPlan:
    """Memory at the peak of a run, in GB of 2**30 bytes.

    Attributes:
        expected_gb: what the card will show as taken by the run.
        low_gb: it will hardly be less.
        high_gb: it will hardly be more.
        peak: the phase that takes most: forward, backward, optimizer, encoding, sampling, validation or saving.
        parts: what the expected figure is made of, by name.
        allocated_gb: what PyTorch's tensors take, as torch.cuda.max_memory_allocated counts.
        by_phase: the same of each phase.
        notes: what the plan could not know.
    """

    expected_gb: float
    low_gb: float
    high_gb: float
    peak: str
    parts: Mapping[str, float]
    allocated_gb: float
    by_phase: Mapping[str, float]
    notes: tuple[str, ...] = ()
    is_measured: bool = False

    def verdict(self, card: Card) -> Verdict | None:
        """Whether the run fits: surely, perhaps, or not; None where there is no card to fit."""
        if card.free_gb is None:
            return None
        if self.high_gb <= card.free_gb:
            return "fits"
        return "tight" if self.expected_gb <= card.free_gb else "does not fit"

    def as_object(self, card: Card) -> dict[str, object]:
        """The `memory` of `--check --json`."""
        total = card.total_gb
        return {
            "expected_gb": round(self.expected_gb, 2),
            "low_gb": round(self.low_gb, 2),
            "high_gb": round(self.high_gb, 2),
            "peak": self.peak,
            "parts": {name: round(size, 2) for name, size in self.parts.items()},
            "verdict": self.verdict(card),
            "card_gb": None if total is None else round(total, 2),
        }


def plan_memory(
    settings: Settings,
    shape: ModelShape,
    *,
    card: Card | None = None,
    overhead: Overhead | None = None,
    beyond: Beyond | None = None,
) -> MemoryPlan:
    """Plan the memory of a run.

    Args:
        settings: of the run.
        shape: of its model.
        card: what it computes on, by default any card.
        overhead: what has been learnt of the card.
        beyond: what is done without a setting for it.
    """
    work = Work(settings, shape, card or Card(), beyond or Beyond())
    known = overhead or (ON_CARD if work.on_card else ON_CPU)
    uses = phases.phases(work)
    peak = max(uses, key=lambda name: uses[name].total)
    scale = known.allocated / BYTES_PER_GB
    allocated = uses[peak].total * scale
    low, expected, high = (
        ratio * allocated + context for ratio, context in zip(known.reserved, known.context_gb, strict=True)
    )
    parts = {name: size * scale for name, size in uses[peak].parts().items()}
    return MemoryPlan(
        expected_gb=expected,
        low_gb=low,
        high_gb=high,
        peak=peak,
        parts={**parts, "context": expected - allocated},
        allocated_gb=allocated,
        by_phase={name: use.total * scale for name, use in uses.items()},
        notes=_notes(work),
        is_measured=known.is_measured,
    )


def sampling_batch(settings: Settings, shape: ModelShape, *, card: Card | None = None) -> int:
    """Prompts that are sampled together: as many as a training batch holds, if they take no more than training does."""
    return phases.sampling_batch(Work(settings, shape, card or Card(), Beyond()))


def _notes(work: Work) -> tuple[str, ...]:
    notes = []
    if work.shape.parameters:
        notes.append(
            f"The model is not of the usual size of {work.shape.family}: its weights are counted, its activations "
            "planned as if it were."
        )
    if work.settings.memory.attn_type == "xformers":
        notes.append("xformers is planned as PyTorch's own attention, which takes about as much.")
    if work.settings.memory.torch_compile:
        notes.append("torch_compile is not in the plan.")
    return tuple(notes)
