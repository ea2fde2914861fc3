"""Which settings to change so that a run fits its card, the cheapest in speed first; or that none would do."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ed2.settings.schema import RESOLUTIONS, Settings
from ed2.vram.card import Card
from ed2.vram.plan import MemoryPlan, Overhead, plan_memory
from ed2.vram.shapes import ModelShape
from ed2.vram.work import Beyond

SMALL_CARD_GB = 12.5
"""Up to here activations are always computed twice: what a display or a browser takes decides otherwise."""
LARGE_CARD_GB = 24.5
"""Up to here they are computed twice above `LARGE_RESOLUTION`."""
LARGE_RESOLUTION = 768
SMALL_RESOLUTION = 640
MOST_UNASKED = 8
"""Images in a batch that nobody has asked for: more, or more than a tenth of them all, learns worse."""
EIGHT_BIT = {"lion": "lion8bit", "adamw": "adamw8bit", "adafactor": "adamw8bit"}
OWN_RATES = ("prodigy", "schedulefree")
"""Optimizers whose learning rates mean something else."""
LORA_RANK = 16
LAST_LAYERS = 2
FASTER = "faster as well"

Values = Mapping[str, object]


@dataclass(frozen=True)
class Change:
    """Settings to change together.

    Attributes:
        before: their values now, by name.
        after: what to set.
        saves_gb: memory that it saves; less than 0 where speed is bought with it.
        why: what it costs or brings.
    """

    before: Values
    after: Values
    saves_gb: float
    why: str


@dataclass(frozen=True)
class Advice:
    """What to change.

    Attributes:
        settings: with all changes made.
        before: the plan as things are.
        after: the plan with all changes made.
        fits: whether that is sure to fit.
        changes: in order.
        room: what the memory left would allow, in a sentence; empty for nothing.
        needed: where nothing fits, what would, in sentences.
    """

    settings: Settings
    before: MemoryPlan
    after: MemoryPlan
    fits: bool
    changes: tuple[Change, ...] = ()
    room: str = ""
    needed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Search:
    """A card, and a model to fit it."""

    shape: ModelShape
    card: Card
    images: int | None = None
    overhead: Overhead | None = None

    def plan(self, settings: Settings, beyond: Beyond | None = None) -> MemoryPlan:
        """The memory of a run."""
        return plan_memory(settings, self.shape, card=self.card, overhead=self.overhead, beyond=beyond)

    def fits(self, settings: Settings, **changes: object) -> bool:
        """Whether a run with these changes is sure to fit."""
        return self.plan(settings.replaced(**changes)).verdict(self.card) == "fits"

    def batch_below(self, settings: Settings, most: int, **changes: object) -> int:
        """The largest batch of at most `most` that fits; 0 for none."""
        return next((b for b in range(most, 0, -1) if self.fits(settings, batch_size=b, **changes)), 0)

    @property
    def most_unasked(self) -> int:
        """The largest batch that is proposed."""
        return MOST_UNASKED if self.images is None else max(1, min(MOST_UNASKED, self.images // 10))

    @property
    def card_gb(self) -> float:
        """The size of the card."""
        return self.card.total_gb or 0.0


Step = tuple[Callable[[Search, Settings], Values], str]


def suggest(search: Search, settings: Settings) -> Advice:
    """Find what to change; each step is taken only as long as it does not fit, and is left out if not needed after all.

    Args:
        search: the card and the model.
        settings: as they are.
    """
    before = search.plan(settings)
    taken: list[tuple[Values, str]] = []
    now = settings
    for values, why in _by_rule(search, settings):
        taken.append((values, why))
        now = now.replaced(**values)
    num_by_rule = len(taken)
    for step, why in STEPS:
        if search.fits(now):
            break
        values = step(search, now)
        if values:
            taken.append((values, why))
            now = now.replaced(**values)
    if not search.fits(now):
        return Advice(settings, before, before, fits=False, needed=tuple(_needed(search, now)))
    taken = _without_needless(search, settings, taken, num_by_rule)
    changes, now = _told(search, settings, taken)
    return Advice(now, before, search.plan(now), fits=True, changes=changes, room=_room(search, now))


def _without_needless(
    search: Search, settings: Settings, taken: list[tuple[Values, str]], num_kept: int
) -> list[tuple[Values, str]]:
    """Leave out what is not needed, the dearest first; the first `num_kept` stay, and what is faster as well."""
    for step in reversed(taken[num_kept:]):
        if step[1] == FASTER:
            continue
        others = [other for other in taken if other is not step]
        merged = {name: value for values, _ in others for name, value in values.items()}
        if search.fits(settings, **merged):
            taken = others
    return taken


def _told(search: Search, settings: Settings, taken: list[tuple[Values, str]]) -> tuple[tuple[Change, ...], Settings]:
    changes, now = [], settings
    for values, why in taken:
        flat, then = now.flat(), now.replaced(**values)
        saved = search.plan(now).expected_gb - search.plan(then).expected_gb
        after = {name: value for name, value in values.items() if value != flat[name]}
        changes.append(Change({name: flat[name] for name in after}, after, saved, why))
        now = then
    return tuple(changes), now


def _by_rule(search: Search, settings: Settings) -> Iterator[tuple[Values, str]]:
    """What is advised whether it fits or not: how often activations are computed."""
    is_on, resolution = settings.memory.gradient_checkpointing, settings.data.resolution
    if search.card_gb <= SMALL_CARD_GB:
        tipped = "; it fits without, but other programs on the card could tip it over" if search.fits(settings) else ""
        wanted, why = True, f"a quarter slower{tipped}"
    elif search.card_gb <= LARGE_CARD_GB and resolution > LARGE_RESOLUTION:
        wanted, why = True, "a quarter slower"
    else:
        wanted, why = is_on and not search.fits(settings, gradient_checkpointing=False), "a quarter faster"
    if wanted != is_on and (wanted or is_on):
        yield {"gradient_checkpointing": wanted}, why


def _mixed_precision(search: Search, settings: Settings) -> Values:
    return {} if settings.memory.amp else {"amp": True}


def _fused_attention(search: Search, settings: Settings) -> Values:
    return {"attn_type": "sdp"} if settings.memory.attn_type == "slice" else {}


def _eight_bit(search: Search, settings: Settings) -> Values:
    """The same optimizers with a state of 8 bit; one whose rate means something else is left for later."""
    changes: dict[str, object] = {}
    common, own = settings.optimizer.chosen(on_card=True), settings.text_encoder.text_encoder_optimizer
    if common in EIGHT_BIT:
        changes["optimizer"] = EIGHT_BIT[common]
    if own in EIGHT_BIT:
        changes["text_encoder_optimizer"] = EIGHT_BIT[str(own)]
    return changes


def _average_on_cpu(search: Search, settings: Settings) -> Values:
    return {"ema_device": "cpu"} if settings.ema.is_on and settings.ema.ema_device == "cuda" else {}


def _validation_batch(search: Search, settings: Settings) -> Values:
    own = settings.validation.val_batch_size
    return {"val_batch_size": None} if own is not None and own > settings.data.batch_size else {}


def _batch_before_checkpointing(search: Search, settings: Settings) -> Values:
    """Fewer images than asked for, while they are many, cost less speed than activations computed twice."""
    asked = settings.data.batch_size
    if settings.memory.gradient_checkpointing or settings.data.resolution >= SMALL_RESOLUTION:
        return {}
    found = search.batch_below(settings, asked - 1)
    return {"batch_size": found} if found >= MOST_UNASKED else {}


def _checkpointing(search: Search, settings: Settings) -> Values:
    return {} if settings.memory.gradient_checkpointing else {"gradient_checkpointing": True}


def _no_accumulation(search: Search, settings: Settings) -> Values:
    """Gradients that wait for the next batch cost more than a larger batch does."""
    accumulated, batch = settings.data.grad_accum, settings.data.batch_size
    if accumulated == 1:
        return {}
    most = max(batch, min(batch * accumulated, search.most_unasked))
    return {"grad_accum": 1, "batch_size": search.batch_below(settings, most, grad_accum=1) or batch}


def _smaller_batch(search: Search, settings: Settings) -> Values:
    """The largest batch that fits; where it can be, accumulation keeps the images of a step."""
    batch = settings.data.batch_size
    wanted = batch * settings.data.grad_accum
    if batch == 1:
        return {}
    for smaller in range(batch - 1, 0, -1):
        accumulated = -(-wanted // smaller)
        if search.fits(settings, batch_size=smaller, grad_accum=accumulated):
            return {"batch_size": smaller, "grad_accum": accumulated}
    return {"batch_size": search.batch_below(settings, batch - 1) or 1}


def _other_optimizer(search: Search, settings: Settings) -> Values:
    chosen = {settings.optimizer.chosen(on_card=True), settings.text_encoder.text_encoder_optimizer}
    if not chosen & set(OWN_RATES):
        return {}
    return {"optimizer": "adamw8bit", "text_encoder_optimizer": None, "lr": None, "text_encoder_lr": None}


def _last_text_layers(search: Search, settings: Settings) -> Values:
    """Of the text encoder of SD2, whose first layers are better left alone, only the last."""
    is_whole = settings.text_encoder.unfreeze_last_n_layers is None and _frozen_text(search, settings)
    return {"unfreeze_last_n_layers": LAST_LAYERS} if search.shape.family == "sd2" and is_whole else {}


def _frozen_text(search: Search, settings: Settings) -> Values:
    model = settings.model
    return {} if model.disable_textenc_training or model.disable_unet_training else {"disable_textenc_training": True}


def _resolution(search: Search, settings: Settings) -> Values:
    smaller = [r for r in RESOLUTIONS if r < settings.data.resolution]
    found = next((r for r in reversed(smaller) if search.fits(settings, resolution=r)), None)
    return {"resolution": found or smaller[0]} if smaller else {}


STEPS: tuple[Step, ...] = (
    (_mixed_precision, FASTER),
    (_fused_attention, FASTER),
    (_eight_bit, "no slower"),
    (_validation_batch, "only validation is slower"),
    (_average_on_cpu, "a few seconds at each update of the average"),
    (_batch_before_checkpointing, "a little slower, and a step sees fewer images"),
    (_checkpointing, "a quarter slower"),
    (_no_accumulation, "no slower; gradients need not wait for the next batch"),
    (_smaller_batch, "slower by the share of a card that a smaller batch leaves idle"),
    (_other_optimizer, "learns at a rate that you set, here the default one"),
    (_last_text_layers, f"faster; of the text encoder only the last {LAST_LAYERS} layers learn"),
    (_frozen_text, "faster, but the text encoder learns nothing"),
    (_resolution, "faster, but smaller images"),
)
"""What may be changed, the cheapest in speed first, and what it costs."""


def _room(search: Search, settings: Settings) -> str:
    batch, most = settings.data.batch_size, search.most_unasked
    found = search.batch_below(settings, most)
    return f"There is room for batch_size {found}." if found > batch else ""


def _needed(search: Search, smallest: Settings) -> Iterator[str]:
    """What would do where nothing fits."""
    plan = search.plan(smallest)
    own = smallest.data
    yield (
        f"Nothing fits: even at resolution {own.resolution}, batch {own.batch_size}, with all that saves memory, a "
        f"full fine-tune takes {plan.low_gb:.1f} to {plan.high_gb:.1f} GB of {search.card.free_gb or 0:.1f} GB free."
    )
    yield f"A card with {_card_that_fits(plan)} GB would do for that."
    lora = search.plan(smallest.replaced(resolution=512), Beyond(lora_rank=LORA_RANK))
    if lora.verdict(search.card) == "fits":
        yield f"So would adapters (LoRA, rank {LORA_RANK}): about {lora.expected_gb:.1f} GB at 512. They are to come."


def _card_that_fits(plan: MemoryPlan) -> int:
    sizes = (6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 80)
    return next((gb for gb in sizes if plan.high_gb <= (Card.of_size(gb).free_gb or 0)), 141)
