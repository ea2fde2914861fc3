"""Which settings to change so that a run needs less memory, starting with those that cost the least speed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ed2.settings.schema import Settings
from ed2.vram.card import Card
from ed2.vram.memory_options import FASTER, OPTIONS, Search, Values
from ed2.vram.plan import MemoryPlan

SMALL_CARD_GB = 12.5
"""Up to this size always checkpoint: otherwise the memory of a display or a browser decides."""
LARGE_CARD_GB = 24.5
"""Up to this size checkpoint above `LARGE_RESOLUTION`."""
LARGE_RESOLUTION = 768
ENOUGH = 0.9
"""After running out of memory, aim for this share of the planned memory."""

Chosen = tuple[Values, str]
"""Settings to change, and what the change costs."""


@dataclass(frozen=True)
class Change:
    """Settings to change together.

    Attributes:
        before: their current values, by name.
        after: their new values.
        saves_gb: memory that this saves; negative if it trades memory for speed.
        why: what it costs or gains.
    """

    before: Values
    after: Values
    saves_gb: float
    why: str


@dataclass(frozen=True)
class Advice:
    """The suggested changes.

    Attributes:
        settings: with all changes made.
        before: the plan of the current settings.
        after: the plan with all changes made.
        fits: whether that plan fits even at its upper bound.
        changes: in order.
        room: a larger batch that the free memory would allow, as a sentence; empty for none.
        needed: what would be needed if nothing fits, as sentences.
    """

    settings: Settings
    before: MemoryPlan
    after: MemoryPlan
    fits: bool
    changes: tuple[Change, ...] = ()
    room: str = ""
    needed: tuple[str, ...] = ()


def suggest(search: Search, settings: Settings) -> Advice:
    """Find the changes after which a run fits; those that turn out to be unnecessary are left out.

    Args:
        search: the GPU and the model.
        settings: the current ones.
    """
    before = search.plan(settings)
    chosen, now = _checkpointing_rule(search, settings), settings
    num_kept = len(chosen)
    for values, _ in chosen:
        now = now.replaced(**values)
    for option, why in OPTIONS:
        if search.fits(now):
            break
        values = option(search, now)
        if values:
            chosen.append((values, why))
            now = now.replaced(**values)
    if not search.fits(now):
        return Advice(settings, before, before, fits=False, needed=tuple(_needed(search, now)))
    changes, now = _changes(search, settings, _without_unneeded(search, settings, chosen, num_kept))
    return Advice(now, before, search.plan(now), fits=True, changes=changes, room=_room(search, now))


def changes_that_save(search: Search, settings: Settings) -> list[Change]:
    """Each change that saves memory by itself, for a run that ran out of memory whatever the plan says."""
    goal = ENOUGH * search.plan(settings).high_gb
    search = replace(search, card=replace(search.card, free_gb=goal))
    found = []
    for option, why in OPTIONS:
        values = option(search, settings)
        if values:
            (change,), _ = _changes(search, settings, [(values, why)])
            found.append(change)
    return [change for change in found if change.saves_gb > 0]


def _without_unneeded(search: Search, settings: Settings, chosen: list[Chosen], num_kept: int) -> list[Chosen]:
    """Drop unneeded changes, the most costly first; keep the first `num_kept`, and those that are faster anyway."""
    for option in reversed(chosen[num_kept:]):
        if option[1] == FASTER:
            continue
        others = [other for other in chosen if other is not option]
        merged: dict[str, object] = {}
        for values, _ in others:
            merged |= values
        if search.fits(settings, **merged):
            chosen = others
    return chosen


def _changes(search: Search, settings: Settings, chosen: list[Chosen]) -> tuple[tuple[Change, ...], Settings]:
    """Each change with what it saves after those before it, and the settings after all of them."""
    changes, now = [], settings
    for values, why in chosen:
        flat, then = now.flat(), now.replaced(**values)
        saved = search.plan(now).expected_gb - search.plan(then).expected_gb
        after = {name: value for name, value in values.items() if value != flat[name]}
        changes.append(Change({name: flat[name] for name in after}, after, saved, why))
        now = then
    return tuple(changes), now


def _checkpointing_rule(search: Search, settings: Settings) -> list[Chosen]:
    """The change of gradient checkpointing that is advised whether the run fits or not, if any."""
    is_on, resolution = settings.memory.gradient_checkpointing, settings.data.resolution
    wanted, why = is_on, "a quarter slower"
    if search.card_gb <= SMALL_CARD_GB:
        wanted = True
        if search.fits(settings):
            why += "; it fits without, but other programs on the GPU could use up the rest"
    elif search.card_gb <= LARGE_CARD_GB and resolution > LARGE_RESOLUTION:
        wanted = True
    elif search.fits(settings, gradient_checkpointing=False):
        wanted, why = False, "a quarter faster"
    return [] if wanted == is_on else [({"gradient_checkpointing": wanted}, why)]


def _room(search: Search, settings: Settings) -> str:
    batch, most = settings.data.batch_size, search.max_batch
    found = search.largest_batch(settings, most)
    return f"There is room for batch_size {found}." if found > batch else ""


def _needed(search: Search, smallest: Settings) -> Iterator[str]:
    """What would be enough if nothing fits."""
    plan, own = search.plan(smallest), smallest.data
    yield (
        f"Nothing fits: even at resolution {own.resolution} and batch size {own.batch_size}, with every option that "
        f"saves memory, a full fine-tune needs {plan.low_gb:.1f} to {plan.high_gb:.1f} GB; "
        f"{search.card.free_gb or 0:.1f} GB is free."
    )
    yield f"A card with {_card_that_fits(plan)} GB would be enough."
    lora = search.plan(smallest.replaced(resolution=512, method="lora"))
    if lora.verdict(search.card) == "fits":
        yield f"A LoRA needs about {lora.expected_gb:.1f} GB at 512: set method to lora."


def _card_that_fits(plan: MemoryPlan) -> int:
    for size_gb in (6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 80):
        if plan.high_gb <= (Card.of_size(size_gb).free_gb or 0):
            return size_gb
    return 141
