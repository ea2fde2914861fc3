"""`train.py --check`: what a run would do, without torch and without writing anything but the image index."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ed2.app.checks.base_model import ChosenBase, base_problems
from ed2.app.checks.rates import rate_lines
from ed2.app.checks.space import cache_bytes, cache_lines, cache_notes, disk_forecast, disk_lines
from ed2.app.checks.suitability import RunLength, prompt_notes, unsuitable
from ed2.app.images.captions import LongCaptions, TokenCounter, long_captions
from ed2.app.images.scanning import TimeLeft, scan_dataset
from ed2.app.images.validating import ValidationSplit, split_off_validation
from ed2.app.memory.report import MemoryReport, report_memory
from ed2.app.preflight import ModelSizes, model_sizes
from ed2.app.run_settings import settings_for_check
from ed2.data.buckets import Size
from ed2.data.example import Dataset
from ed2.data.reading import Outline
from ed2.data.report import ReportOptions, as_json, as_text, batch_notes
from ed2.errors import Problem
from ed2.models.families.facts import FACTS, FamilyFacts
from ed2.models.files.base_model import locate
from ed2.models.files.tokens import MAX_TOKENS, token_counter
from ed2.settings.checks import nothing_trained
from ed2.settings.effect import without_effect
from ed2.settings.schema import Settings


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
        lines += [*rate_lines(self.settings, self._family, self._length.steps), *map(str, self.model_problems)]
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
        place = locate(self.settings.model.resume_ckpt)
        return token_counter(place.path if place else Path())

    @cached_property
    def steps(self) -> tuple[int, int]:
        """The optimizer steps of the first epoch, and of all."""
        planner = self.plan.planner(self.dataset.examples)
        return planner.steps(0), self.plan.total_steps(planner)

    @property
    def buckets(self) -> set[Size]:
        """The buckets that hold images."""
        return {example.bucket for example in self.dataset.examples}

    @property
    def _length(self) -> RunLength:
        num_images = len(self.dataset.examples) - len(self.split.keys)
        return RunLength(self.steps[1], num_images, self.plan.max_epochs)

    def _findings(self) -> list[Problem]:
        """Warnings on the settings, the validation split, the batches and the run that stop nothing."""
        batches = batch_notes(self.plan.planner(self.dataset.examples))
        sentences = [*self.notes, *self.sizes.notes, *self.split.notes, *batches]
        sentences += [*without_effect(self.settings, self._family), *prompt_notes(self.settings)]
        found = [Problem(None, sentence) for sentence in sentences]
        return found + unsuitable(self.settings, self.sizes, self._length)


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
    write = sys.stderr.write
    dataset = scan_dataset(
        settings,
        progress=None if quiet else progress_line(write),
        on_outline=None if quiet else outline_line(write),
    )
    return replace(check_dataset(settings, dataset, notes=known.notes), vram_gb=vram_gb)


def check_dataset(settings: Settings, dataset: Dataset, *, notes: tuple[str, ...] = ()) -> CheckResult:
    """Check the model and the validation split, for images that have been read already.

    Raises:
        DatasetError: a validation folder contains no usable images.
    """
    problems = tuple(base_problems(ChosenBase.of(settings.flat())))
    split = split_off_validation(settings, dataset)
    return CheckResult(settings, dataset, model_sizes(settings), split, problems, notes)


def progress_line(write: Callable[[str], object]) -> Callable[[int, int], None]:
    """A callback that shows the progress on a terminal, in one line."""
    time_left = TimeLeft()

    def progress(done: int, total: int) -> None:
        if total and sys.stderr.isatty():
            text = time_left.images(done, total)
            if done % 20 == 0 or done == total:
                write(f"\rreading {text:<70}" + ("\n" if done == total else ""))

    return progress


def outline_line(write: Callable[[str], object]) -> Callable[[Outline], None]:
    """A callback that prints on a terminal what the headers say, while the full read continues."""

    def outline(found: Outline) -> None:
        if sys.stderr.isatty():
            write(f"{found}.\n")

    return outline
