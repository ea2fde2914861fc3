"""`train.py --check`: what a run would do, without torch and without writing anything but the image index."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ed2.app.checks.space import disk_forecast, disk_lines
from ed2.app.checks.suitability import RunLength, rate_lines, unsuitable
from ed2.app.images.captions import TokenCounter, long_captions
from ed2.app.images.scanning import TimeLeft, scan_dataset
from ed2.app.images.validating import ValidationSplit, split_off_validation
from ed2.app.memory.report import MemoryReport, report_memory
from ed2.app.preflight import ModelSizes, model_sizes
from ed2.app.run_settings import settings_for_check
from ed2.data.example import Dataset
from ed2.data.reading import Outline
from ed2.data.report import ReportOptions, as_json, as_text, batch_notes
from ed2.errors import Problem
from ed2.models.files.tokens import token_counter
from ed2.settings.checks import without_effect
from ed2.settings.schema import Settings


@dataclass(frozen=True)
class Checked:
    """What was found out about a run."""

    settings: Settings
    dataset: Dataset
    sizes: ModelSizes
    apart: ValidationSplit
    notes: tuple[str, ...] = ()
    """What has become of names of the original."""
    vram_gb: float | None = None
    """The card to plan for; None is the one that is here."""

    @property
    def plan(self) -> ReportOptions:
        """How the images would be trained."""
        data, run = self.settings.data, self.settings.run
        return ReportOptions(
            seed=run.seed,
            batch_size=data.batch_size,
            grad_accum=data.grad_accum,
            max_epochs=run.max_epochs,
            validation_keys=self.apart.keys,
        )

    @property
    def memory(self) -> MemoryReport:
        """What the run takes of the card."""
        return report_memory(self.settings, self.sizes, self.vram_gb)

    @property
    def _as_planned(self) -> Settings:
        """The settings with the optimizer that a run on the card to plan for would have."""
        return as_on_card(self.settings, self.vram_gb)

    def as_object(self) -> dict[str, Any]:
        """The answer to `--check --json`."""
        report = as_json(self.dataset, self.plan)
        of_model = [{"path": p.path, "what": p.what, "fix": p.fix} for p in self.sizes.problems]
        disk = disk_forecast(self._as_planned, self.sizes)
        problems = [*report["problems"], *of_model]
        found = [*self._findings(), *long_captions(self.dataset.examples, self._tokens).findings()]
        notes = [*report["notes"], *({"path": note.path, "what": note.what, "fix": note.fix} for note in found)]
        return {**report, "problems": problems, "notes": notes, "disk": disk, "memory": self.memory.as_object()}

    def as_text(self) -> str:
        """The same for people."""
        lines = [*self.memory.lines(), *disk_lines(self._as_planned, self.sizes)]
        lines += [*rate_lines(self.settings, self._length.steps), *map(str, self.sizes.problems)]
        lines += [*map(str, self._findings()), *self.caption_notes()]
        return as_text(self.dataset, self.plan) + "\n" + "\n".join(lines)

    def caption_notes(self) -> list[str]:
        """That captions are longer than the text encoder reads, as a sentence; none if all are read whole."""
        note = long_captions(self.dataset.examples, self._tokens).sentence()
        return [note] if note else []

    @property
    def _tokens(self) -> TokenCounter:
        return token_counter(Path(self.settings.model.resume_ckpt))

    @property
    def _length(self) -> RunLength:
        planner = self.plan.planner(self.dataset.examples)
        num_images = len(self.dataset.examples) - len(self.apart.keys)
        return RunLength(self.plan.total_steps(planner), num_images, self.plan.max_epochs)

    def _findings(self) -> list[Problem]:
        """What stops nothing: of the settings, of what is kept for validation, of the batches and of the run."""
        batches = batch_notes(self.plan.planner(self.dataset.examples))
        sentences = [*self.notes, *self.sizes.notes, *self.apart.notes, *without_effect(self.settings), *batches]
        found = [Problem(None, sentence) for sentence in sentences]
        return found + unsuitable(self.settings, self.sizes, self._length)


def as_on_card(settings: Settings, vram_gb: float | None) -> Settings:
    """The settings with the optimizer that a run on a card to plan for would have; unchanged without one."""
    return settings.replaced(optimizer=settings.optimizer.chosen(on_card=True)) if vram_gb else settings


def checked(flags: Mapping[str, object], config: Path | None, *, quiet: bool, vram_gb: float | None = None) -> Checked:
    """Look at the settings, the images and the model; `vram_gb` plans for a card of that size.

    Raises:
        SettingsError: wrong settings.
        DatasetError: nothing to train on.
    """
    known = settings_for_check(flags, config)
    settings = known.settings
    write = sys.stderr.write
    dataset = scan_dataset(
        settings,
        progress=None if quiet else counted_on(write),
        on_outline=None if quiet else outlined_on(write),
    )
    return replace(looked_at(settings, dataset, notes=known.notes), vram_gb=vram_gb)


def looked_at(settings: Settings, dataset: Dataset, *, notes: tuple[str, ...] = ()) -> Checked:
    """Look at the model, and at what is kept for validation, for images that are read already.

    Raises:
        DatasetError: a folder for validation holds nothing that can be used.
    """
    return Checked(settings, dataset, model_sizes(settings), split_off_validation(settings, dataset), notes)


def counted_on(write: Callable[[str], object]) -> Callable[[int, int], None]:
    """A progress line that counts images, for a terminal."""
    time_left = TimeLeft()

    def progress(done: int, total: int) -> None:
        if total and sys.stderr.isatty():
            text = time_left.images(done, total)
            if done % 20 == 0 or done == total:
                write(f"\rreading {text:<70}" + ("\n" if done == total else ""))

    return progress


def outlined_on(write: Callable[[str], object]) -> Callable[[Outline], None]:
    """A line that says what headers tell, for a terminal on which somebody waits for the rest."""

    def outline(found: Outline) -> None:
        if sys.stderr.isatty():
            write(f"{found}.\n")

    return outline
