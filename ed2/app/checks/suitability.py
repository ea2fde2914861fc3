"""What is worth a second thought before a run: the course of its learning rates, and what is probably a mistake.

None of it stops the run. Needs no torch.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from ed2.app.preflight import ModelSizes
from ed2.errors import Problem
from ed2.models.families.facts import FACTS, FamilyFacts, PartFacts
from ed2.sampling.prompts import PromptFile
from ed2.settings.schema import DEFAULT_LR, SMALL_RESOLUTIONS, TEXT_ENCODER_SHARE, Settings
from ed2.text import counted, rough_duration
from ed2.training.schedules import DECAY, WARMUP, Schedule, schedule_of

LEAST_FACTOR = 0.05
"""An update below this share of the learning rate changes next to nothing."""
CURVE_POINTS = 100
PROBES = 1000
"""Updates at which a schedule is looked at, spread over the run."""
LOW_SHARE = 0.5
"""Share of the run below `LEAST_FACTOR` that is worth a note. Falling schedules are there for a seventh at most."""
REAL_UNET = 100_000_000
"""Weights of a UNet; those of tests and the demo have a few million, and other usual values."""
USUAL_RATES = {"full": "1e-6 to 3e-6", "lora": "5e-5 to 5e-4"}
"""Learning rates of real models by method."""
MAX_LR = {"full": 2e-5, "lora": 5e-3}
MIN_LR = {"full": 1e-8, "lora": 4e-6}
MAX_DROPOUT = 0.5
LARGE_BATCH = 12
"""Above so many images per step the usual learning rates no longer hold."""
LARGER_RATES = {"schedulefree": 10.0}
"""How much larger the usual rate of an optimizer is."""
MAX_VISITS = 200_000
MIN_VISITS = 200
"""Times that an image is shown. Most fine-tunes take 1,000 to 100,000."""
USUAL_SPEEDS = (2.0, 8.0)
"""Images per second at 512 on common GPUs, for a rough time where none was measured."""

SAMPLE_SPEEDS = (10.0, 40.0)
"""Images of 512 x 512 that pass through a UNet in a second without training, on the same GPUs."""
LONG_SECONDS = 600.0
"""Samples that may take as long each time are worth a note, and so is as much in all if training takes far less."""
FAR_LESS = 0.25


@dataclass(frozen=True)
class RateCurve:
    """The learning rate of a network over a run: its course in words, and as pairs of step and rate."""

    title: str
    course: str
    points: tuple[tuple[int, float], ...]


def rate_curves(settings: Settings, family: FamilyFacts, total_steps: int) -> list[RateCurve]:
    """The learning rate of each trained network, at about a hundred steps and where its course changes."""
    curves = []
    for part in settings.trained_networks(family):
        schedule, rate = schedule_of(settings, part, total_steps), settings.rate_of(part)
        steps = {round(place * (total_steps - 1) / CURVE_POINTS) for place in range(CURVE_POINTS + 1)}
        steps |= {step for step in (schedule.warmup_steps, schedule.decay_steps) if 0 <= step < total_steps}
        course = in_words(schedule, rate, total_steps)
        curves.append(RateCurve(part.title, course, tuple((step, rate * schedule(step)) for step in sorted(steps))))
    return curves


def in_words(schedule: Schedule, rate: float, total_steps: int) -> str:
    """The course of a learning rate over a run: "rises to 1e-06 at step 20, then falls to 0 at step 1,000"."""
    warmup, end = schedule.warmup_steps, schedule.decay_steps
    falls = schedule.curve(1.0) < LEAST_FACTOR
    if warmup >= total_steps and warmup > 1:
        return f"rises from {rate / warmup:.2g} to {rate * total_steps / warmup:.2g} at the last step"
    start = f"rises to {rate:g} at step {warmup:,}, then " if warmup > 1 else ""
    if not falls:
        return f"{start}stays at {rate:g}" if start else f"{rate:g} throughout"
    if end <= warmup:
        return f"{start}is 0 from step {warmup + 1:,} on"
    if end < total_steps:
        return f"{start or f'{rate:g} at first, '}falls, and is 0 from step {end + 1:,} on"
    if end > total_steps:
        last = rate * schedule(total_steps - 1)
        return f"{start or f'{rate:g} at first, '}falls to {last:.2g} at the last step"
    return f"{start or f'{rate:g} at first, '}falls to 0 at the end"


@dataclass(frozen=True)
class RunLength:
    """How long a run is: all steps, images per epoch, and the speed of a run like it, None if unknown."""

    steps: int
    images: int
    epochs: int
    images_per_second: float | None = None

    @property
    def visits(self) -> int:
        """How many times an image is shown."""
        return self.images * self.epochs


def unsuitable(settings: Settings, sizes: ModelSizes, length: RunLength) -> list[Problem]:
    """What is worth a second thought before the run starts; none of it stops the run."""
    trained = settings.trained_networks(FACTS[sizes.family])
    found: list[Problem] = []
    for part in trained:
        found += _of_schedule(settings, part, length.steps)
    if sizes.parameters.get("unet", 0) >= REAL_UNET:
        found += [*_of_rates(settings, trained), *_of_resolution(settings, sizes.family), *_of_length(settings, length)]
        found += [*_of_samples(settings, length), *_of_dropout(settings)]
        found += filter(None, [large_batch_note(settings)])
    return [*_of_processes(settings), *found]


def _of_processes(settings: Settings) -> Iterator[Problem]:
    """How many images a step of several processes takes, and what follows for the learning rate."""
    size = settings.run.num_processes
    if size == 1:
        return
    images, batches = counted(settings.images_per_step, "image"), settings.batches_per_step
    what = f"Training in {size} processes: {images} per step, as one process with grad_accum {batches} would."
    fix = f"A learning rate that suits one process can be raised up to {sqrt(size):.2g} times."
    yield Problem(None, what, fix)


def large_batch_note(settings: Settings) -> Problem | None:
    """A warning about the learning rate of a large batch; None for a usual one."""
    images = settings.images_per_step
    if images <= LARGE_BATCH:
        return None
    what = f"{counted(images, 'image')} per step are more than the usual learning rates are for."
    return Problem(None, what, "Raise lr a little or lower batch_size, and compare samples.")


def prompt_notes(settings: Settings) -> list[str]:
    """A sentence on what of the prompt file is not used; empty if there is nothing to say, or no such file yet."""
    prompts, note = _prompt_file(settings).read()
    if not prompts or not note:
        return []
    return [note]


def _of_schedule(settings: Settings, part: PartFacts, total_steps: int) -> Iterator[Problem]:
    """A schedule that leaves out most of the run: a warm-up without end, a decay that ends early."""
    if total_steps < 2:
        return
    schedule, rate = schedule_of(settings, part, total_steps), settings.rate_of(part)
    warmup_setting, decay_setting = (settings.setting_for(part, name) for name in (WARMUP, DECAY))
    course = f"the learning rate of the {part.title} {in_words(schedule, rate, total_steps)}"
    warmup, total = schedule.warmup_steps, counted(total_steps, "step")
    if warmup >= total_steps:
        what = f"The warm-up takes {counted(warmup, 'step')} and the run has {total}, so {course}."
        yield Problem(None, what, f"Leave {warmup_setting} empty, or set it to at most {max(1, total_steps // 10):,}.")
        return
    zero = _zero_steps(schedule, total_steps)
    if zero:
        what = f"{zero:,} of {total} train nothing: {course}."
        yield Problem(None, what, f"Leave {decay_setting} empty, so that it ends with the run.")
    elif _low_share(schedule, total_steps) > LOW_SHARE:
        what = f"The learning rate is close to 0 for most of the run: {course}."
        yield Problem(None, what, f"Leave {warmup_setting} and {decay_setting} empty.")


def _zero_steps(schedule: Schedule, total_steps: int) -> int:
    """How many updates have a learning rate of 0."""
    start = max(schedule.warmup_steps, schedule.decay_steps)
    if schedule.curve(1.0) > 0:
        return 0
    return max(0, total_steps - start)


def _low_share(schedule: Schedule, total_steps: int) -> float:
    places = range(0, total_steps, max(1, total_steps // PROBES))
    low = [place for place in places if schedule(place) < LEAST_FACTOR]
    return len(low) / len(places)


def _of_rates(settings: Settings, trained: Iterable[PartFacts]) -> Iterator[Problem]:
    """Rates far from those that real models are fine-tuned at."""
    for part in trained:
        name, rate = settings.optimizer_of(part, on_card=True), settings.rate_of(part)
        if name == "prodigy":  # it finds the rate itself
            continue
        method = settings.model.method
        factor, setting, usual = LARGER_RATES.get(name, 1.0), "lr", DEFAULT_LR[method]
        if part.is_text_encoder:
            setting, usual = f"{part.name}_lr", usual * TEXT_ENCODER_SHARE
        start = f"A learning rate of {rate:g} for the {part.title} is"
        fix = f"Set {setting} to {usual * factor:g} to begin with."
        if rate > MAX_LR[method] * factor:
            yield Problem(
                None, f"{start} far above the usual {USUAL_RATES[method]} and destroys what was learned.", fix
            )
        elif rate < MIN_LR[method] * factor:
            yield Problem(None, f"{start} far below the usual {USUAL_RATES[method]} and hardly changes the model.", fix)


def _of_dropout(settings: Settings) -> Iterator[Problem]:
    share = settings.lora.lora_dropout
    if settings.model.method == "lora" and share > MAX_DROPOUT:
        what = f"A lora_dropout of {share:g} hides {share:.0%} of each layer's inputs, and the LoRA hardly learns."
        yield Problem(None, what, "Set lora_dropout to 0.1 or less to begin with.")


def _of_resolution(settings: Settings, family: str) -> Iterator[Problem]:
    """Resolutions far from the one that the family was made at."""
    usual, resolution = FACTS[family].resolution, settings.data.resolution
    fix = f"Set resolution to {usual}."
    if resolution in SMALL_RESOLUTIONS or resolution * 2 <= usual:
        what = f"Resolution {resolution} is far below the {usual} that {FACTS[family].title} models were made at"
        yield Problem(None, f"{what}: they learn to draw blurred and cropped images.", fix)
    elif resolution > usual * 2:
        what = f"Resolution {resolution} is far above the {usual} that {FACTS[family].title} models were made at"
        yield Problem(None, f"{what}: they tend to draw the subject twice.", fix)


def _of_length(settings: Settings, length: RunLength) -> Iterator[Problem]:
    """Runs that are far longer or shorter than fine-tunes usually are."""
    size = f"{counted(length.epochs, 'epoch')} of {counted(length.images, 'image')} are {counted(length.steps, 'step')}"
    if length.visits > MAX_VISITS:
        epochs = float(f"{max(1, MAX_VISITS / 4 / length.images):.2g}")
        what = f"{size}, {_time_in_words(settings, length)}: far more than fine-tuning usually takes."
        yield Problem(None, what, f"Set max_epochs to about {epochs:,.0f} to begin with.")
    elif 0 < length.visits < MIN_VISITS:
        epochs = -(-5 * MIN_VISITS // length.images)
        what = f"{size}: hardly enough for the model to learn anything."
        yield Problem(None, what, f"Set max_epochs to about {epochs:,}.")


def _of_samples(settings: Settings, length: RunLength) -> Iterator[Problem]:
    """Samples that may take very long, or most of the time of the run."""
    file = _prompt_file(settings)
    prompts, _ = file.read()
    times = 1 + -(-length.steps // (file.options.sample_steps or settings.sampling.sample_steps))
    sets = int(settings.ema.samples_trained) + int(settings.ema.samples_average)
    work = sets * sum(prompt.work for prompt in prompts)
    longest, shortest = (work / speed for speed in SAMPLE_SPEEDS)
    training = length.visits / _rough_speeds(settings)[0]
    if longest >= LONG_SECONDS or times * longest >= max(LONG_SECONDS, training / FAR_LESS):
        time = f"{rough_duration(shortest)} to {rough_duration(longest)}"
        what = f"{counted(sets * len(prompts), 'sample')} take roughly {time} on "
        fix = "Use fewer prompts or denoising steps, or raise sample_steps."
        yield Problem(None, f"{what}one GPU, and are drawn {counted(times, 'time')} in this run.", fix)


def _prompt_file(settings: Settings) -> PromptFile:
    path = settings.sampling.sample_prompts
    return PromptFile(Path(path) if path else None, settings.run.seed, settings.data.resolution)


def _rough_speeds(settings: Settings) -> tuple[float, float]:
    """Images per second in training, on a slow and on a fast GPU."""
    slow, fast = (speed * (512 / settings.data.resolution) ** 2 for speed in USUAL_SPEEDS)
    return slow, fast


def _time_in_words(settings: Settings, length: RunLength) -> str:
    if length.images_per_second:
        return f"about {rough_duration(length.visits / length.images_per_second)} at the speed of the last run like it"
    slow, fast = _rough_speeds(settings)
    shortest, longest = rough_duration(length.visits / fast), rough_duration(length.visits / slow)
    return f"roughly {shortest} to {longest} on one GPU"
