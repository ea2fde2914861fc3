"""What a run would do, without torch and without writing anything but the image index.

In full for `train.py --check`; as a forecast from the last check of the images for the page.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ed2.app.checks.memory import MemoryReport, report_memory
from ed2.app.checks.space import cache_bytes, cache_lines, cache_notes, disk_forecast, disk_lines
from ed2.app.checks.start_checks import base_problems
from ed2.app.checks.suitability import RateCurve, RunLength, prompt_notes, rate_curves, unsuitable
from ed2.app.images.captions import LongCaptions, TokenCounter, long_captions
from ed2.app.images.scanning import TimeLeft, ValidationSplit, scan_dataset, split_off_validation
from ed2.app.measured import measured_speed
from ed2.app.preflight import ModelSizes, model_sizes, trained_model
from ed2.app.run_settings import settings_for_check
from ed2.data.buckets import Size, nearest_bucket
from ed2.data.example import Dataset
from ed2.data.reading import Outline
from ed2.data.report import ReportOptions, as_json, as_text, batch_notes
from ed2.errors import Problem
from ed2.models.families.facts import FACTS, FamilyFacts
from ed2.models.files.tokens import MAX_TOKENS, token_counter
from ed2.settings.checks import nothing_trained
from ed2.settings.effect import without_effect
from ed2.settings.schema import Settings
from ed2.vram.card import Card, card_for

LIKE_IT = "without samples, at the speed of the last run like it"
CHECK_FIRST = "Press Check in the Dataset tab to see the number of steps."


@dataclass(frozen=True)
class CheckResult:
    """What a check found out about a run."""

    settings: Settings
    dataset: Dataset
    sizes: ModelSizes
    split: ValidationSplit
    base_problems: tuple[Problem, ...] = ()
    """Why the base model cannot be trained, as a start would say it."""
    notes: tuple[str, ...] = ()
    """What became of the names of EveryDream 2."""
    vram_gb: float | None = None
    """Memory of the GPU to plan for; None plans for the one in this computer."""

    @property
    def model_problems(self) -> tuple[Problem, ...]:
        """What is wrong with the base model, and what is planned in its place."""
        return (*self.base_problems, *nothing_trained(self.settings, self._family), *self.sizes.problems)

    @property
    def _family(self) -> FamilyFacts:
        return FACTS[self.sizes.family]

    @property
    def plan(self) -> ReportOptions:
        """How the images would be trained."""
        data, run = self.settings.data, self.settings.run
        return ReportOptions(
            seed=run.seed,
            batch_size=data.batch_size,
            grad_accum=self.settings.batches_per_step,
            max_epochs=run.max_epochs,
            validation_keys=self.split.keys,
        )

    @property
    def memory(self) -> MemoryReport:
        """The memory that the run needs."""
        return report_memory(self.settings, self.sizes, self.vram_gb)

    @property
    def _planned_settings(self) -> Settings:
        """The settings with the optimizer that a run on the planned GPU would use."""
        return with_planned_optimizer(self.settings, self.vram_gb)

    def as_object(self) -> dict[str, Any]:
        """The answer to `--check --json`."""
        report = as_json(self.dataset, self.plan)
        model_problems = [{"path": p.path, "what": p.what, "fix": p.fix} for p in self.model_problems]
        disk = disk_forecast(self._planned_settings, self.sizes)
        disk["cache_bytes"] = cache_bytes(self.settings, self.sizes, self.split.training.examples)
        problems = [*report["problems"], *model_problems]
        found = [*self._findings(), *self.captions_too_long.findings()]
        found += [Problem(None, n) for n in cache_notes(self.settings, self.sizes, self.split.training.examples)]
        notes = [*report["notes"], *({"path": note.path, "what": note.what, "fix": note.fix} for note in found)]
        return {**report, "problems": problems, "notes": notes, "disk": disk, "memory": self.memory.as_object()}

    def as_text(self) -> str:
        """The same for people."""
        lines = [*self.memory.lines(), *disk_lines(self._planned_settings, self.sizes)]
        lines += cache_lines(self.settings, self.sizes, self.split.training.examples)
        curves = rate_curves(self.settings, self._family, self.steps[1])
        lines += [f"Learning rate of the {curve.title}: {curve.course}." for curve in curves]
        lines += map(str, self.model_problems)
        lines += [*map(str, self._findings()), *self.caption_notes()]
        return as_text(self.dataset, self.plan) + "\n" + "\n".join(lines)

    def caption_notes(self) -> list[str]:
        """A sentence on captions that are longer than the text encoder reads; empty if there are none."""
        return list(filter(None, [self.captions_too_long.sentence()]))

    @cached_property
    def captions_too_long(self) -> LongCaptions:
        """The images whose caption is longer than the text encoder reads."""
        return long_captions(self.dataset.examples, self.count_tokens, self.token_limit)

    @property
    def token_limit(self) -> int:
        """How many tokens of a caption are read."""
        return MAX_TOKENS * self.settings.data.caption_chunks

    @cached_property
    def count_tokens(self) -> TokenCounter:
        """Counts tokens as the base model does."""
        return token_counter(trained_model(self.settings) or Path())

    @cached_property
    def steps(self) -> tuple[int, int]:
        """The optimizer steps of the first epoch, and of all."""
        planner = self.plan.planner(self.dataset.examples)
        return planner.steps(0), self.plan.total_steps(planner)

    @property
    def buckets(self) -> set[Size]:
        """The buckets that hold images."""
        return {example.bucket for example in self.dataset.examples}

    def length(self, images_per_second: float | None = None) -> RunLength:
        """How long the run is, at a speed if that is known."""
        num_images = len(self.dataset.examples) - len(self.split.keys)
        return RunLength(self.steps[1], num_images, self.plan.max_epochs, images_per_second)

    def run_notes(self) -> list[str]:
        """Sentences on the batches and on the sample prompts."""
        return [*batch_notes(self.plan.planner(self.dataset.examples)), *prompt_notes(self.settings)]

    def _findings(self) -> list[Problem]:
        """Warnings on the settings, the validation split, the batches and the run that stop nothing."""
        sentences = [*self.notes, *self.sizes.notes, *self.split.notes, *self.run_notes()]
        found = [Problem(None, one) for one in [*sentences, *without_effect(self.settings, self._family)]]
        return found + unsuitable(self.settings, self.sizes, self.length())


def with_planned_optimizer(settings: Settings, vram_gb: float | None) -> Settings:
    """The settings with the optimizer that a run on a GPU of `vram_gb` would use; unchanged without one."""
    if not vram_gb:
        return settings
    return settings.replaced(optimizer=settings.optimizer.chosen(on_card=True))


def run_check(
    flags: Mapping[str, object], config: Path | None, *, quiet: bool, vram_gb: float | None = None
) -> CheckResult:
    """Check the settings, the images and the model; `vram_gb` plans for a GPU of that size.

    Raises:
        SettingsError: wrong settings.
        DatasetError: nothing to train on.
    """
    known = settings_for_check(flags, config)
    settings = known.settings
    time_left = TimeLeft()

    def progress(done: int, total: int) -> None:
        text = time_left.images(done, total)
        if text and (done % 20 == 0 or done == total):
            sys.stderr.write(f"\rreading {text:<70}" + ("\n" if done == total else ""))

    def outline(found: Outline) -> None:
        sys.stderr.write(f"{found}.\n")

    is_shown = not quiet and sys.stderr.isatty()
    dataset = scan_dataset(settings, progress=progress if is_shown else None, on_outline=outline if is_shown else None)
    return replace(check_dataset(settings, dataset, notes=known.notes), vram_gb=vram_gb)


def check_dataset(settings: Settings, dataset: Dataset, *, notes: tuple[str, ...] = ()) -> CheckResult:
    """Check the model and the validation split, for images that have been read already.

    Raises:
        DatasetError: a validation folder contains no usable images.
    """
    problems = tuple(base_problems(settings.flat()))
    split = split_off_validation(settings, dataset)
    return CheckResult(settings, dataset, model_sizes(settings), split, problems, notes)


@dataclass(frozen=True)
class Forecast:
    """What a run would take, and what speaks against it.

    Attributes:
        steps: of the whole run; None until its images were checked.
        course: a sentence on the steps, or on how to get to know them.
        seconds: of training; None if no run like it was measured on this GPU.
        checkpoint_bytes: on the disk, of one checkpoint.
        free_bytes: on that disk.
        rates: the learning rate of each network over the run; empty without steps.
        notes: sentences on disk space, and on settings that are probably not meant.
    """

    course: str
    steps: int | None = None
    seconds: float | None = None
    checkpoint_bytes: int = 0
    free_bytes: int = 0
    rates: tuple[RateCurve, ...] = ()
    notes: tuple[str, ...] = ()


def forecast(settings: Settings, checked: CheckResult | None, vram_gb: float | None = None) -> Forecast:
    """Estimate a run on a GPU of `vram_gb`, or the one in this computer; a check of its images tells the steps."""
    sizes = model_sizes(settings)
    family, planned = FACTS[sizes.family], with_planned_optimizer(settings, vram_gb)
    disk, (_, *of_disk) = disk_forecast(planned, sizes), disk_lines(planned, sizes)
    of_cache = cache_lines(settings, sizes, checked.dataset.examples if checked else ())
    notes = [*of_disk, *of_cache, *map(str, [*nothing_trained(settings, family), *sizes.problems])]
    found = Forecast(
        CHECK_FIRST,
        checkpoint_bytes=disk["checkpoint_bytes"],
        free_bytes=disk["free_bytes"],
        notes=(*notes, *without_effect(settings, family)),
    )
    if checked is None or checked.settings.data.data_root != settings.data.data_root:
        return found
    resolution = settings.data.resolution
    moved = tuple(replace(e, bucket=nearest_bucket(e.size, resolution)) for e in checked.dataset.examples)
    now = check_dataset(settings, replace(checked.dataset, examples=moved))
    return _with_steps(found, now, card_for(settings.run.device, vram_gb))


def _with_steps(found: Forecast, checked: CheckResult, card: Card) -> Forecast:
    """The forecast with what follows from the images."""
    settings, sizes, (one, total) = checked.settings, checked.sizes, checked.steps
    speed = measured_speed(settings, sizes, card)
    num_images, length = len(checked.dataset.examples), checked.length(speed)
    return replace(
        found,
        course=f"{num_images:,} images: {one:,} steps per epoch, {total:,} steps in {length.epochs:,} epochs.",
        steps=total,
        seconds=length.visits / speed if speed else None,
        rates=tuple(rate_curves(settings, FACTS[sizes.family], total)),
        notes=(*map(str, unsuitable(settings, sizes, length)), *checked.run_notes(), *found.notes),
    )
