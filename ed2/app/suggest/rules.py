"""Values to begin with: a table of rules, each with its reason.

A rule sees what the rules before it suggested. docs/tweaking.md says where each comes from. Needs no torch.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from math import ceil, sqrt

from ed2.app.checks.suitability import large_batch_note
from ed2.app.suggest.situation import Situation, repeats_in, subject_of
from ed2.settings.schema import DEFAULT_LR, RunSettings, Settings
from ed2.text import counted, listed
from ed2.vram.advice import LARGE_CARD_GB, LARGE_RESOLUTION, SMALL_CARD_GB, suggest
from ed2.vram.memory_options import OWN_RATES, SMALL_RESOLUTION

USUAL_EPOCHS = ((20, 100), (50, 60), (200, 40), (1000, 20), (5000, 10), (20_000, 5))
"""Epochs for up to so many images: the more there are, the less often each has to be seen."""
LEAST_EPOCHS = 3
USUAL_RANGE = (0.5, 2.0)
"""The usual number of steps, relative to the one that is suggested."""
NO_RATE = "No learning rate is suggested: this base model is not of a usual size, so the usual values do not apply."
REFERENCE_BATCH = 2
"""Images per step that the default learning rate is for."""
MAX_LR = {"full": 3e-6, "lora": 3e-4}
"""The largest learning rate to suggest."""
HALVED_FROM = 768
"""Resolution from which the learning rate of a full fine-tune is halved."""
SAMPLE_STEPS = ((100, 50), (1000, 100))
"""Steps between samples at `REFERENCE_BATCH`, for up to so many images."""
MOST_SAMPLE_STEPS = 250
TIMED_SAVES_FROM = 1000
"""Images from which an epoch is too long to save by epochs."""
SAVE_MINUTES = 60.0
SAVES_PER_RUN = 4

Values = Mapping[str, object]
Proposal = tuple[Values, str]
"""Settings with their values, and the reason."""


@dataclass(frozen=True)
class SuggestedValue:
    """One suggested value, and the reason as a sentence."""

    setting: str
    value: object
    why: str


@dataclass(frozen=True)
class SuggestedValues:
    """All suggested values in the order of the rules, the settings with them, and what they do not solve."""

    values: tuple[SuggestedValue, ...]
    settings: Settings
    notes: tuple[str, ...] = ()

    def changes(self, settings: Settings) -> dict[str, object]:
        """The values that differ from these settings, by name."""
        now = settings.flat()
        return {found.setting: found.value for found in self.values if now[found.setting] != found.value}


def suggest_values(situation: Situation) -> SuggestedValues:
    """Apply the rules one after the other; settings that were given stay as they are."""
    now, values, notes = situation.settings, {}, []
    for rule in RULES:
        proposal = rule(situation, now)
        if proposal is None:
            continue
        allowed = {name: value for name, value in proposal[0].items() if name not in situation.given}
        now = now.replaced(**allowed)
        for name, value in allowed.items():
            values[name] = SuggestedValue(name, value, proposal[1])
    notes += [*_unfitting(situation, now), *repeats_notes(now.data.data_root)]
    if not situation.has_real_unet:
        notes.append(NO_RATE)
    if note := large_batch_note(now):
        notes.append(str(note))
    return SuggestedValues(tuple(values.values()), now, tuple(notes))


def _unfitting(situation: Situation, settings: Settings) -> list[str]:
    """What would be needed if the values do not fit the GPU; empty if they do."""
    if not situation.has_card or situation.search.fits(settings):
        return []
    advice = suggest(situation.search, settings)
    if advice.fits:  # only settings that were given stand in the way
        changed = listed(list(chain(*(change.after for change in advice.changes))))
        return [f"With the settings that you gave, this does not fit the GPU: change {changed}."]
    return list(advice.needed)


def repeats_notes(roots: Iterable[str]) -> list[str]:
    """What the names of folders such as `50_jets` mean here, as sentences; empty without such folders."""
    found = repeats_in(roots)
    if not found:
        return []
    (name, repeats), fewest = next(iter(found.items())), min(found.values())
    notes = [
        f"{name} is named for {repeats} repeats, as other trainers do. There are no repeats here: {repeats} repeats x "
        f"5 epochs are {5 * repeats} epochs (max_epochs {5 * repeats})."
    ]
    more = [f"{count / fewest:g} in {folder}" for folder, count in found.items() if count > fewest]
    if more:
        notes.append(f"To show folders as often relative to each other, put a multiply.txt into them: {listed(more)}.")
    return notes


def _usual_steps(settings: Settings, num_images: int) -> tuple[int, int, int]:
    """The steps of a run with the usual epochs for so many images, and the usual range, lowest and highest."""
    steps = _steps(settings.replaced(max_epochs=_usual_epochs(num_images)), num_images)
    low, high = (int(float(f"{max(1, steps * share):.2g}")) for share in USUAL_RANGE)
    return steps, low, high


def _steps(settings: Settings, num_images: int) -> int:
    per_step = settings.images_per_step
    return settings.run.max_epochs * ceil(num_images / per_step)


def _usual_epochs(num_images: int) -> int:
    return next((epochs for most, epochs in USUAL_EPOCHS if num_images <= most), LEAST_EPOCHS)


def _resolution(situation: Situation, settings: Settings) -> Proposal:
    return {"resolution": situation.resolution}, "the resolution that the base model was made at"


def _checkpointing(situation: Situation, settings: Settings) -> Proposal | None:
    search, resolution = situation.search, settings.data.resolution
    if not situation.has_card:
        return None
    name = "gradient_checkpointing"
    without = settings.replaced(gradient_checkpointing=False, batch_size=1)
    if search.card_gb <= SMALL_CARD_GB:
        return {name: True}, "on a card with up to 12 GB there is no room without it"
    if search.card_gb <= LARGE_CARD_GB and resolution > LARGE_RESOLUTION:
        return {name: True}, f"needed above {LARGE_RESOLUTION} on a card with up to 24 GB"
    if search.card_gb >= LARGE_CARD_GB - 1 and resolution < SMALL_RESOLUTION and search.fits(without):
        return {name: False}, f"on a card with 24 GB or more it only slows training down below {SMALL_RESOLUTION}"
    if search.fits(without, batch_size=search.max_batch):
        return {name: False}, "not needed: the batch fits without it, and steps are a quarter faster"
    return {name: True}, "the batch does not fit without it"


def _batch_size(situation: Situation, settings: Settings) -> Proposal | None:
    search, most = situation.search, situation.search.max_batch
    tenth = "larger ones learn no better"
    if situation.num_images is not None and situation.num_images // 10 <= most:
        tenth = f"at most a tenth of {counted(situation.num_images, 'image')}"
    found = most
    if situation.has_card:
        found = search.largest_batch(settings, most)
    elif situation.num_images is None:
        return None
    if found < most:
        tenth = "the largest that fits the GPU"
    return {"batch_size": max(1, found)}, tenth


def _what_fits(situation: Situation, settings: Settings) -> Proposal | None:
    """What else has to change so that one image at a time fits."""
    if not situation.has_card or situation.search.fits(settings):
        return None
    advice = suggest(situation.search, settings)
    values: dict[str, object] = {}
    for change in advice.changes:
        values.update(change.after)
    return (values, "does not fit the GPU otherwise") if values else None


def _learning_rate(situation: Situation, settings: Settings) -> Proposal | None:
    chosen = settings.optimizer.chosen(on_card=True)
    if chosen in OWN_RATES or not situation.has_real_unet:
        return None
    method, images = settings.model.method, settings.images_per_step
    rate = DEFAULT_LR[method] * max(1.0, sqrt(images / REFERENCE_BATCH))
    why = f"{DEFAULT_LR[method]:g} is usual for {'a LoRA' if method == 'lora' else 'a full fine-tune'}"
    rate = min(rate, MAX_LR[method])
    if rate > DEFAULT_LR[method]:
        why += f", slightly more with {counted(images, 'image')} per step"
    if method == "full" and settings.data.resolution >= HALVED_FROM:
        rate, why = rate / 2, f"{why}, half of that from {HALVED_FROM} on"
    return {"lr": float(f"{rate:.1e}")}, why


def _epochs(situation: Situation, settings: Settings) -> Proposal | None:
    if not situation.num_images:
        return None
    epochs = _usual_epochs(situation.num_images)
    steps, low, high = _usual_steps(settings, situation.num_images)
    why = f"about {counted(steps, 'step')}; {low:,} to {high:,} are usual for {counted(situation.num_images, 'image')}"
    return {"max_epochs": epochs}, why


def _samples(situation: Situation, settings: Settings) -> Proposal | None:
    if not situation.num_images:
        return None
    images = settings.images_per_step
    steps = next((steps for most, steps in SAMPLE_STEPS if situation.num_images <= most), MOST_SAMPLE_STEPS)
    rarer = steps * max(1.0, sqrt(images / REFERENCE_BATCH))
    why = "samples take time, so they are rarer with many images, and with large batches, whose steps are longer"
    return {"sample_steps": round(rarer / 10) * 10}, why


def _saves(situation: Situation, settings: Settings) -> Proposal | None:
    if not situation.num_images:
        return None
    if situation.num_images >= TIMED_SAVES_FROM:
        values: Values = {"ckpt_every_n_minutes": SAVE_MINUTES, "save_every_n_epochs": None}
        return values, "an epoch of thousands of images is long, so minutes count"
    every = max(1, round(settings.run.max_epochs / SAVES_PER_RUN))
    values = {"save_every_n_epochs": every, "ckpt_every_n_minutes": None}
    return values, f"{SAVES_PER_RUN} checkpoints to choose from"


def _project_name(situation: Situation, settings: Settings) -> Proposal | None:
    subject = subject_of(settings.data.data_root)
    is_named = settings.run.project_name != RunSettings().project_name
    if is_named or not subject or not situation.num_images:
        return None
    tag = situation.family.tag_of(situation.prediction_type)
    return {"project_name": f"{subject}_{tag}"}, "the images and the base model, which you will want to know later"


RULES: tuple[Callable[[Situation, Settings], Proposal | None], ...] = (
    _resolution,
    _checkpointing,
    _batch_size,
    _what_fits,
    _batch_size,  # again: what fits may leave room for more
    _learning_rate,
    _epochs,
    _samples,
    _saves,
    _project_name,
)
"""In this order: a rule builds on what those before it suggested."""
