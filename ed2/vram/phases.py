"""What each phase of a run has on the card at its worst moment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

from ed2.vram.traced import Row
from ed2.vram.work import Work

BYTES_PER_PIXEL = 12
"""Three numbers in fp32."""


@dataclass(frozen=True)
class Use:
    """Bytes on the card at a moment, by what they are for."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    average: float = 0.0
    autocast_copies: float = 0.0
    activations: float = 0.0
    temporaries: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """By name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def towards(self, other: "Use", share: float) -> "Use":
        """Between this and another."""
        mine, theirs = self.parts(), other.parts()
        return Use(**{name: mine[name] + share * (theirs[name] - mine[name]) for name in mine})


def phases(work: Work) -> dict[str, Use]:
    """What each phase takes at its worst moment."""
    base = _base(work)
    found = training_phases(work, base)
    found["sampling"] = _sampling(work, base, _sampling_batch(work, base, _most(found)))
    if _validates(work):
        found["validation"] = _without_gradients(work, base, work.settings.validation.val_batch_size or work.batch)
    found["saving"] = replace(base, temporaries=work.largest_tensor())
    return found


def sampling_batch(work: Work) -> int:
    """Prompts that are sampled together: as many as a training batch holds, if they take no more than training does."""
    base = _base(work)
    return _sampling_batch(work, base, _most(training_phases(work, base)))


def _base(work: Work) -> Use:
    """What is on the card all the time."""
    return Use(weights=work.weights(), optimizer=work.optimizer_state(), average=work.average())


def _most(uses: Mapping[str, Use]) -> float:
    return max(use.total for use in uses.values())


def training_phases(work: Work, base: Use) -> dict[str, Use]:
    """What the phases of a step take."""
    full = work.gradients()
    held = full if work.holds_gradients and not work.beyond.fused_backward else 0.0
    found = {}
    if not work.beyond.cached_latents:
        found["encoding"] = _by_vae(work, replace(base, gradients=held), "encoding")
    for phase in ("forward", "backward"):
        found[phase] = _pass(work, base, phase, held)
    gradients = work.largest_tensor() if work.beyond.fused_backward else full
    found["optimizer"] = replace(base, gradients=gradients, temporaries=work.optimizer_step())
    return found


def _pass(work: Work, base: Use, phase: str, held: float) -> Use:
    """The worst moment of the forward or the backward pass; one with a part of the text encoder lies in between."""
    without = work.variant(with_text=False)
    whole = _worst(work, base, work.variant(with_text=True), phase, held)
    if work.text_depth == 1 or not work.trains_text or not work.trains_unet:
        return whole
    return _worst(work, base, without, phase, held).towards(whole, work.text_depth)


def _worst(work: Work, base: Use, variant: str, phase: str, held: float) -> Use:
    rows = (row for row in work.shape.traced.training[variant] if row.phase == phase)
    return _largest(_at(work, base, row, work.batch, _gradients(work, row, held)) for row in rows)


def _gradients(work: Work, row: Row, held: float) -> float:
    """Gradients that are there at a moment of a pass."""
    if work.beyond.fused_backward:
        return work.largest_tensor()
    if work.beyond.lora_rank:
        return held or (work.gradients() if row.phase == "backward" else 0.0)
    return held or work.shape.scale("unet") * row.unet_gradients + work.text_share * row.text_gradients


def _at(work: Work, base: Use, row: Row, batch: int, gradients: float) -> Use:
    activations, workspace = row.bytes_at(batch, work.cells)
    return replace(
        base,
        gradients=gradients,
        autocast_copies=work.shape.scale("unet") * row.casts,
        activations=activations,
        temporaries=workspace if work.copies_by_pixel else 0.0,
    )


def _by_vae(work: Work, base: Use, way: str) -> Use:
    """The VAE at its worst moment: one image at a time, whatever the batch."""
    rows = getattr(work.shape.traced, way)[work.precision]
    use = _largest(_at(work, base, row, 1, base.gradients) for row in rows)
    pixels = work.batch * work.settings.data.resolution**2 * BYTES_PER_PIXEL
    return replace(use, activations=use.activations + pixels)


def _sampling_batch(work: Work, base: Use, most: float) -> int:
    batch = work.batch
    while batch > 1 and _sampling(work, base, batch).total > most:
        batch -= 1
    return batch


def _sampling(work: Work, base: Use, batch: int) -> Use:
    """Samples of `batch` prompts, each with and without its prompt."""
    base = replace(base, weights=base.weights + _put_back(work) + _waiting(work))
    return _largest((_without_gradients(work, base, 2 * batch), _by_vae(work, base, "decoding")))


def _waiting(work: Work) -> float:
    """Trained weights that wait on the CPU while samples are drawn with their average."""
    return work.average() if not work.on_card and work.settings.ema.samples_average else 0.0


def _put_back(work: Work) -> float:
    """What was kept away from the card in training and is needed now."""
    parts = {"vae": work.beyond.cached_latents, "text_encoder": work.beyond.cached_text}
    return sum(work.frozen_bytes * work.shape.numbers(part) for part, is_away in parts.items() if is_away)


def _without_gradients(work: Work, base: Use, batch: int) -> Use:
    """A forward pass of the UNet alone."""
    rows = work.shape.traced.denoising[work.precision]
    uses = (_at(work, base, row, batch, 0.0) for row in rows)
    if work.casts_unet:
        return _largest(uses)
    return _largest(replace(use, autocast_copies=0.0) for use in uses)


def _validates(work: Work) -> bool:
    own = work.settings.validation
    return own.val_split_mode != "none" or own.stabilize_training_loss or bool(own.extra_manual_datasets)


def _largest(uses: Iterable[Use]) -> Use:
    return max(uses, key=lambda use: use.total)
