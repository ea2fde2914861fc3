"""The peak memory of a run, from its settings alone: no GPU and no PyTorch needed.

A run goes through phases: caching, encoding, forward pass, backward pass, optimizer, sampling, validation, saving.
Memory that one phase needs is free again in the next (gradients grow while activations shrink), so the peak is the
largest phase, not the sum of all.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

from ed2.models.families.facts import FACTS
from ed2.settings.schema import Settings
from ed2.vram.card import BYTES_PER_GB, Card, Verdict
from ed2.vram.memory_model import MemoryModel, PlannedFeatures
from ed2.vram.overhead import ON_CARD, ON_CPU, Overhead
from ed2.vram.shapes import ModelShape, TracedRow

BYTES_PER_PIXEL = 12
"""Three numbers in fp32."""


@dataclass(frozen=True)
class MemoryPlan:
    """Peak memory of a run, in GB of 2**30 bytes.

    Attributes:
        expected_gb: what the GPU will show as used by the run.
        low_gb: lower bound.
        high_gb: upper bound.
        peak: the phase with the peak: caching, encoding, forward, backward, optimizer, sampling, validation or saving.
        parts: the expected figure, by purpose.
        allocated_gb: PyTorch's tensors, as torch.cuda.max_memory_allocated counts them.
        by_phase: the same for each phase.
        notes: what the plan does not account for.
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
        """Whether the run fits; None without a GPU."""
        if card.free_gb is None:
            return None
        if self.high_gb <= card.free_gb:
            return "fits"
        if self.expected_gb <= card.free_gb:
            return "tight"
        return "does not fit"

    def as_object(self, card: Card) -> dict[str, object]:
        """The `memory` of `--check --json`."""
        return {
            "expected_gb": round(self.expected_gb, 2),
            "low_gb": round(self.low_gb, 2),
            "high_gb": round(self.high_gb, 2),
            "peak": self.peak,
            "parts": {name: round(size, 2) for name, size in self.parts.items()},
            "verdict": self.verdict(card),
            "card_gb": None if card.total_gb is None else round(card.total_gb, 2),
        }


@dataclass(frozen=True)
class PhaseUsage:
    """Bytes in use at one moment, by purpose."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    average: float = 0.0
    sums: float = 0.0
    autocast_copies: float = 0.0
    activations: float = 0.0
    temporaries: float = 0.0

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """Each part by its name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def interpolate(self, other: "PhaseUsage", share: float) -> "PhaseUsage":
        """The usage at `share` of the way to `other`."""
        mine, theirs = self.parts(), other.parts()
        return PhaseUsage(**{name: mine[name] + share * (theirs[name] - mine[name]) for name in mine})


def plan_memory(
    settings: Settings,
    shape: ModelShape,
    *,
    card: Card | None = None,
    overhead: Overhead | None = None,
    features: PlannedFeatures | None = None,
) -> MemoryPlan:
    """Plan the memory of a run.

    Args:
        settings: of the run.
        shape: of its model.
        card: the device, by default any GPU.
        overhead: learned from earlier runs on this device.
        features: in place of those that settings turn on.
    """
    model = MemoryModel(settings, shape, card or Card(), features or PlannedFeatures.of(settings))
    known = overhead or (ON_CARD if model.on_card else ON_CPU)
    usage = _usage_by_phase(model)
    peak = max(usage, key=lambda name: usage[name].total)
    scale = known.allocated / BYTES_PER_GB
    allocated = usage[peak].total * scale
    low, expected, high = known.range_of(allocated)
    parts = {name: size * scale for name, size in usage[peak].parts().items()}
    return MemoryPlan(
        expected_gb=expected,
        low_gb=low,
        high_gb=high,
        peak=peak,
        parts={**parts, "context": expected - allocated},
        allocated_gb=allocated,
        by_phase={name: phase.total * scale for name, phase in usage.items()},
        notes=_notes(model),
        is_measured=known.is_measured,
    )


def _notes(model: MemoryModel) -> tuple[str, ...]:
    notes = []
    if model.shape.parameters:
        title = FACTS[model.shape.family].title
        notes.append(
            f"This model differs in size from the usual {title}: its weights are counted, its activations are planned "
            "as for the usual size."
        )
    own = model.settings.optimizer
    if model.on_card and own.optimizer is None and not own.useadam8bit and not model.trains_adapters:
        notes.append("8-bit Adam is counted: it is the default on a GPU. Choose another optimizer to turn it off.")
    notes.extend(_notes_on_adapters(model))
    if model.settings.memory.attn_type == "xformers":
        notes.append("xformers is planned like PyTorch's own attention, which uses about as much.")
    if model.settings.data.caption_chunks > 1 and model.settings.memory.attn_type == "slice":
        notes.append("Sliced attention is planned for captions of up to 75 tokens; longer ones take a little more.")
    for name in ("torch_compile", "cudnn_benchmark"):
        if getattr(model.settings.memory, name):
            notes.append(f"The plan does not include {name}.")
    return tuple(notes)


def _notes_on_adapters(model: MemoryModel) -> Iterator[str]:
    if not model.trains_adapters:
        return
    variant = model.variant(with_text=True)
    if model.trains_text and "-both" not in variant:
        yield "Of this LoRA the plan counts the activations of the UNet; text encoders take up to 0.5 GB more."
    if f"/{model.settings.lora.lora_layers}" not in variant:
        yield "Of this LoRA the plan counts the weights, but intermediate results as if only attention had adapters."
    if model.settings.lora.lora_dora and not variant.endswith("-dora"):
        yield "Of DoRA the plan counts the weights, not its intermediate results, which take more than those of a LoRA."


def sampling_batch(settings: Settings, shape: ModelShape, *, card: Card) -> int:
    """Prompts to sample together: as many as a training batch has images, if that uses no more memory than training."""
    model = MemoryModel(settings, shape, card, PlannedFeatures.of(settings))
    base = _resident(model)
    return _sampling_batch(model, base, _peak_bytes(_training_usage(model, base)))


def _usage_by_phase(model: MemoryModel) -> dict[str, PhaseUsage]:
    """The worst moment of each phase."""
    base = _resident(model)
    usage = _training_usage(model, base)
    usage["sampling"] = _sampling(model, base, _sampling_batch(model, base, _peak_bytes(usage)))
    own, with_all = model.settings.validation, replace(base, weights=base.weights + _returned_weights(model))
    if model.features.cached_latents:
        usage["caching"] = _vae(model, with_all, "encoding")
    if own.is_on:
        usage["validation"] = _without_gradients(model, with_all, own.val_batch_size or model.batch)
    usage["saving"] = replace(base, temporaries=model.largest_tensor())
    return usage


def _resident(model: MemoryModel) -> PhaseUsage:
    """Memory in use throughout the run."""
    return PhaseUsage(
        weights=model.weights(), optimizer=model.optimizer_state(), average=model.average(), sums=model.sums()
    )


def _peak_bytes(usage: Mapping[str, PhaseUsage]) -> float:
    return max(phase.total for phase in usage.values())


def _training_usage(model: MemoryModel, base: PhaseUsage) -> dict[str, PhaseUsage]:
    """The phases of a step."""
    full = model.gradients()
    held = full if model.holds_gradients and not model.frees_gradients else 0.0
    usage = {}
    if not model.features.cached_latents:
        usage["encoding"] = _vae(model, replace(base, gradients=held), "encoding")
    for phase in ("forward", "backward"):
        usage[phase] = _pass(model, base, phase, held)
    gradients = model.freed_gradients() if model.frees_gradients else full
    usage["optimizer"] = replace(base, gradients=gradients, temporaries=model.optimizer_update())
    return usage


def _pass(model: MemoryModel, base: PhaseUsage, phase: str, held: float) -> PhaseUsage:
    """The forward or the backward pass; one that trains part of the text encoders lies between none and all of them."""
    whole = _worst_moment(model, base, model.variant(with_text=True), phase, held)
    if model.text_depth == 1 or not model.trains_text or not model.trains_unet:
        return whole
    return _worst_moment(model, base, model.variant(with_text=False), phase, held).interpolate(whole, model.text_depth)


def _worst_moment(model: MemoryModel, base: PhaseUsage, variant: str, phase: str, held: float) -> PhaseUsage:
    rows = (row for row in model.shape.traced.training[variant] if row.phase == phase)
    usages = []
    for row in rows:
        usage = _usage_at(model, base, row, model.batch, _gradients(model, row, variant, held))
        longer = model.batch * model.longer_captions(row, variant)
        usages.append(replace(usage, activations=usage.activations + longer))
    if model.borrows_trace(variant):  # of weights in fp32, with copies that weights in bf16 do not need
        usages = [replace(usage, autocast_copies=0.0) for usage in usages]
    if model.frees_gradients and phase == "backward":
        updating = model.optimizer_update()
        usages = [replace(usage, temporaries=usage.temporaries + updating) for usage in usages]
    return _largest(usages)


def _gradients(model: MemoryModel, row: TracedRow, variant: str, held: float) -> float:
    """Gradients in memory at a moment of a pass."""
    if model.frees_gradients:
        return model.freed_gradients()
    if model.trains_adapters:
        return held or (model.gradients() if row.phase == "backward" else 0.0)
    traced = model.shape.scale("unet") * row.unet_gradients + model.text_gradient_share * row.text_gradients
    return held or model.gradient_share(variant) * traced


def _usage_at(model: MemoryModel, base: PhaseUsage, row: TracedRow, batch: int, gradients: float) -> PhaseUsage:
    activations, workspace = row.bytes_at(batch, model.cells)
    return replace(
        base,
        gradients=gradients,
        autocast_copies=model.shape.scale("unet") * row.casts,
        activations=activations,
        temporaries=workspace if model.has_convolution_workspace else 0.0,
    )


def _vae(model: MemoryModel, base: PhaseUsage, direction: str) -> PhaseUsage:
    """The VAE at its worst moment: one image at a time, whatever the batch."""
    rows = getattr(model.shape.traced, direction)[model.vae_precision]
    usage = _largest(_usage_at(model, base, row, 1, base.gradients) for row in rows)
    pixels = model.batch * model.settings.data.resolution**2 * BYTES_PER_PIXEL
    return replace(usage, activations=usage.activations + pixels)


def _sampling_batch(model: MemoryModel, base: PhaseUsage, most: float) -> int:
    batch = model.batch
    while batch > 1 and _sampling(model, base, batch).total > most:
        batch -= 1
    return batch


def _sampling(model: MemoryModel, base: PhaseUsage, batch: int) -> PhaseUsage:
    """Samples of `batch` prompts, each with and without its prompt."""
    base = replace(base, weights=base.weights + _returned_weights(model) + _parked_weights(model))
    return _largest((_without_gradients(model, base, 2 * batch), _vae(model, base, "decoding")))


def _parked_weights(model: MemoryModel) -> float:
    """Trained weights that are set aside, on the CPU, while samples are drawn with the EMA."""
    if not model.on_card and model.settings.ema.samples_average:
        return model.average()
    return 0.0


def _returned_weights(model: MemoryModel) -> float:
    """Weights that a cache keeps off the GPU in training and that sampling needs."""
    return sum(model.bytes_of(part) for part in model.family.parts if model.is_cached(part))


def _without_gradients(model: MemoryModel, base: PhaseUsage, batch: int) -> PhaseUsage:
    """A forward pass of the UNet alone."""
    rows = model.shape.traced.denoising[model.precision]
    usages = [_usage_at(model, base, row, batch, 0.0) for row in rows]
    if not model.casts_unet:
        usages = [replace(usage, autocast_copies=0.0) for usage in usages]
    return _largest(usages)


def _largest(usages: Iterable[PhaseUsage]) -> PhaseUsage:
    return max(usages, key=lambda usage: usage.total)
