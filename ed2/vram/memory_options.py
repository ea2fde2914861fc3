"""What can be changed so that a run needs less memory, starting with what costs the least speed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ed2.models.families.facts import FACTS
from ed2.settings.checks import LOW_MEMORY_OPTIMIZERS
from ed2.settings.schema import RESOLUTIONS, Settings
from ed2.vram.card import Card
from ed2.vram.memory_model import PlannedFeatures
from ed2.vram.overhead import Overhead
from ed2.vram.plan import MemoryPlan, plan_memory
from ed2.vram.shapes import ModelShape

SMALL_RESOLUTION = 640
MAX_SUGGESTED_BATCH = 8
"""Larger batches than this, or than a tenth of the images, learn worse."""
EIGHT_BIT = {"lion": "lion8bit", "adamw": "adamw8bit", "adafactor": "adamw8bit"}
OWN_RATES = ("prodigy", "schedulefree")
"""Optimizers whose learning rates are not comparable."""
FASTER = "also faster"
WORTH_IT = 0.1
"""Share of the memory that another kind of optimizer has to save to be suggested."""

Values = Mapping[str, object]


@dataclass(frozen=True)
class Search:
    """A GPU, and a model to fit on it."""

    shape: ModelShape
    card: Card
    num_images: int | None = None
    overhead: Overhead | None = None

    def plan(self, settings: Settings, features: PlannedFeatures | None = None) -> MemoryPlan:
        """The memory of a run."""
        return plan_memory(settings, self.shape, card=self.card, overhead=self.overhead, features=features)

    def fits(self, settings: Settings, **changes: object) -> bool:
        """Whether a run with these changes fits even at its upper bound."""
        return self.plan(settings.replaced(**changes)).verdict(self.card) == "fits"

    def largest_batch(self, settings: Settings, most: int, **changes: object) -> int:
        """The largest batch up to `most` that fits; 0 for none."""
        for batch in range(most, 0, -1):
            if self.fits(settings, batch_size=batch, **changes):
                return batch
        return 0

    def saves(self, settings: Settings, changes: Values, share: float = 0.0) -> bool:
        """Whether a run with these changes needs less memory, by more than this share of it."""
        return self.plan(settings.replaced(**changes)).expected_gb < (1 - share) * self.plan(settings).expected_gb

    @property
    def max_batch(self) -> int:
        """The largest batch to suggest."""
        if self.num_images is None:
            return MAX_SUGGESTED_BATCH
        return max(1, min(MAX_SUGGESTED_BATCH, self.num_images // 10))

    @property
    def card_gb(self) -> float:
        """The size of the GPU; 0 if unknown."""
        return self.card.total_gb or 0.0


Option = tuple[Callable[[Search, Settings], Values], str]
"""A function that returns settings to change, or none; and what the change costs."""


def _mixed_precision(search: Search, settings: Settings) -> Values:
    return {} if settings.memory.amp else {"amp": True}


def _fused_attention(search: Search, settings: Settings) -> Values:
    if settings.memory.attn_type != "slice":
        return {}
    return {"attn_type": "sdp"}


def _eight_bit(search: Search, settings: Settings) -> Values:
    """The same optimizers with 8-bit state; those with other learning rates come later."""
    changes: dict[str, object] = {}
    common, own = _optimizer(search, settings), settings.text_encoder.text_encoder_optimizer
    if common in EIGHT_BIT:
        changes["optimizer"] = EIGHT_BIT[common]
    if own in EIGHT_BIT:
        changes["text_encoder_optimizer"] = EIGHT_BIT[str(own)]
    return changes if search.saves(settings, changes) else {}


def _optimizer(search: Search, settings: Settings) -> str:
    return settings.optimizer.chosen(on_card=search.card.kind == "cuda")


def _ema_on_cpu(search: Search, settings: Settings) -> Values:
    if not settings.ema.is_on or settings.ema.ema_device == "cpu":
        return {}
    return {"ema_device": "cpu"}


def _validation_batch(search: Search, settings: Settings) -> Values:
    own = settings.validation.val_batch_size
    if own is None or own <= settings.data.batch_size:
        return {}
    return {"val_batch_size": None}


def _batch_before_checkpointing(search: Search, settings: Settings) -> Values:
    """A large batch made smaller costs less speed than checkpointing does."""
    asked = settings.data.batch_size
    if settings.memory.gradient_checkpointing or settings.data.resolution >= SMALL_RESOLUTION:
        return {}
    found = search.largest_batch(settings, asked - 1)
    return {"batch_size": found} if found >= MAX_SUGGESTED_BATCH else {}


def _checkpointing(search: Search, settings: Settings) -> Values:
    if settings.memory.gradient_checkpointing:
        return {}
    return {"gradient_checkpointing": True}


def _no_accumulation(search: Search, settings: Settings) -> Values:
    """Gradients held for the next batch need more memory than a larger batch does."""
    accumulated, batch = settings.data.grad_accum, settings.data.batch_size
    if accumulated == 1:
        return {}
    most = max(batch, min(batch * accumulated, search.max_batch))
    return {"grad_accum": 1, "batch_size": search.largest_batch(settings, most, grad_accum=1) or batch}


def _smaller_batch(search: Search, settings: Settings) -> Values:
    """The largest batch that fits, with accumulation to keep the images per step if possible."""
    batch = settings.data.batch_size
    wanted = batch * settings.data.grad_accum
    if batch == 1:
        return {}
    most = search.largest_batch(settings, batch - 1) or 1
    if settings.memory.fused_backward:  # it does not accumulate
        return {"batch_size": most}
    for smaller in range(batch - 1, 0, -1):
        accumulated = -(-wanted // smaller)
        if search.fits(settings, batch_size=smaller, grad_accum=accumulated):
            return {"batch_size": smaller, "grad_accum": accumulated}
    return {"batch_size": most}


def _update_in_backward(search: Search, settings: Settings) -> Values:
    """Each tensor of weights updated as soon as its gradient is there, which clips each gradient by itself, at 1."""
    own_norm = settings.optimizer.clip_grad_norm not in (None, type(settings.optimizer)().clip_grad_norm)
    is_possible = _has_low_memory(search, settings) and settings.data.grad_accum == 1 and not own_norm
    if settings.memory.fused_backward or not is_possible:
        return {}
    return {"fused_backward": True, "grad_accum": 1, **_optimizers(settings)}


def _half_weights(search: Search, settings: Settings) -> Values:
    if settings.memory.weights_dtype != "fp32" or not settings.memory.amp or not _has_low_memory(search, settings):
        return {}
    return {"weights_dtype": "bf16", **_optimizers(settings)}


def _optimizers(settings: Settings) -> Values:
    """The optimizers that a change relies on, so that it holds without the change that chose them."""
    names = ("optimizer", "text_encoder_optimizer")
    return {name: value for name, value in settings.flat().items() if name in names}


def _has_low_memory(search: Search, settings: Settings) -> bool:
    """Whether weights in bf16 and updates in the backward pass work here."""
    if settings.model.method == "lora":  # its weights are in fp32, and their gradients small
        return False
    chosen = {_optimizer(search, settings), settings.text_encoder.text_encoder_optimizer or "adamw"}
    has_bf16 = search.card.kind == "cuda" and search.card.has_bf16 and settings.memory.amp_dtype != "fp16"
    return has_bf16 and chosen <= set(LOW_MEMORY_OPTIMIZERS)


def _factored(search: Search, settings: Settings) -> Values:
    """Adafactor, where large matrices make up most of a model."""
    changes = {"optimizer": "adafactor"}
    has_adam = _optimizer(search, settings) == "adamw8bit"
    return changes if has_adam and search.saves(settings, changes, WORTH_IT) else {}


def _other_optimizer(search: Search, settings: Settings) -> Values:
    chosen = {settings.optimizer.chosen(on_card=True), settings.text_encoder.text_encoder_optimizer}
    if not chosen & set(OWN_RATES):
        return {}
    common = {"optimizer": "adamw8bit", "text_encoder_optimizer": None}
    return {**common, "lr": None, "text_encoder_lr": None, "text_encoder_2_lr": None}


def _last_text_layers(search: Search, settings: Settings) -> Values:
    """Only the last layers of the text encoder, in a family whose first layers are better left frozen."""
    layers = FACTS[search.shape.family].best_text_layers
    is_whole = settings.text_encoder.unfreeze_last_n_layers is None and _frozen_text(search, settings)
    return {"unfreeze_last_n_layers": layers} if layers and is_whole else {}


def _frozen_second_text(search: Search, settings: Settings) -> Values:
    """Only the first of two text encoders, which is the smaller one."""
    trained = settings.model.trained_parts(FACTS[search.shape.family])
    return {"disable_textenc_2_training": True} if trained[-2:] == ["text_encoder", "text_encoder_2"] else {}


def _frozen_text(search: Search, settings: Settings) -> Values:
    """Only the denoiser, where a text encoder is trained besides."""
    family = FACTS[search.shape.family]
    trained = settings.model.trained_parts(family)
    if settings.model.disable_unet_training or not any(part.name in trained for part in family.text_encoders):
        return {}
    return {"disable_textenc_training": True, "disable_textenc_2_training": None}


def _resolution(search: Search, settings: Settings) -> Values:
    smaller = [resolution for resolution in RESOLUTIONS if resolution < settings.data.resolution]
    for resolution in reversed(smaller):
        if search.fits(settings, resolution=resolution):
            return {"resolution": resolution}
    return {"resolution": smaller[0]} if smaller else {}


OPTIONS: tuple[Option, ...] = (
    (_mixed_precision, FASTER),
    (_fused_attention, FASTER),
    (_eight_bit, "same speed"),
    (_validation_batch, "only validation is slower"),
    (_ema_on_cpu, "a few seconds more per EMA update"),
    (_batch_before_checkpointing, "a little slower, and fewer images per step"),
    (_checkpointing, "a quarter slower"),
    (_no_accumulation, "same speed; no gradients are held for the next batch"),
    (_smaller_batch, "slower, since a smaller batch leaves part of the GPU idle"),
    (_update_in_backward, "a little slower; gradients are clipped tensor by tensor"),
    (_half_weights, "a few percent slower, and a little less precise"),
    (_factored, "a little slower, with less exact averages of the gradient"),
    (_other_optimizer, "uses a learning rate that you set, here the default"),
    (_last_text_layers, "faster, but only the last layers of the text encoder are trained"),
    (_frozen_second_text, "faster, but of the text encoders only the first is trained"),
    (_frozen_text, "faster, but only the UNet is trained"),
    (_resolution, "faster, but images are smaller"),
)
"""What can be changed and what it costs, the least cost in speed first."""
