"""What to change so that a run needs less memory, for the page and after out of memory; the answer to `--suggest`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from ed2.app.checks.memory import SMALLEST_SHOWN_GB, MemoryReport, report_memory, verdict_line
from ed2.app.images.scanning import scan_dataset
from ed2.app.preflight import ModelSizes, model_sizes
from ed2.app.suggest.rules import SuggestedValues, suggest_values
from ed2.app.suggest.situation import Situation, situation_of
from ed2.errors import DatasetError, Problem, SettingsError
from ed2.settings.files import with_defaults
from ed2.settings.gather import gather
from ed2.settings.schema import Settings
from ed2.text import counted, value_text
from ed2.vram.advice import Advice, Change, changes_that_save, suggest
from ed2.vram.card import NO_CARD, Card, card_for
from ed2.vram.memory_options import Search

NO_IMAGES = "With --data_root IMAGES, epochs, samples, saves and the project name are suggested too."
MAX_FIXES = 3


@dataclass(frozen=True)
class MemorySuggestion:
    """Advice, and the report that it is about: the part of the answer to `--suggest` on memory."""

    report: MemoryReport
    advice: Advice
    notes: tuple[str, ...] = ()

    def as_object(self) -> dict[str, object]:
        """As JSON."""
        advice, card = self.advice, self.report.card
        return {
            "fits": advice.fits,
            "changes": [
                {
                    "settings": dict(change.after),
                    "before": dict(change.before),
                    "saves_gb": round(change.saves_gb, 2),
                    "why": change.why,
                }
                for change in advice.changes
            ],
            "before": advice.before.as_object(card),
            "after": advice.after.as_object(card),
            "room": advice.room,
            "needed": list(advice.needed),
            "problems": list(self.notes),
        }

    def as_text(self) -> str:
        """As lines."""
        advice = self.advice
        lines = [f"Current settings: {verdict_line(advice.before, self.report.card)}", *advice.needed]
        lines += change_lines(advice.changes)
        if advice.changes:
            lines.append(f"After these changes: {verdict_line(advice.after, self.report.card)}")
        elif advice.fits:
            lines.append("No changes needed.")
        if advice.room:
            lines.append(advice.room)
        return "\n".join([*lines, *self.notes])


def change_lines(changes: tuple[Change, ...], label: Callable[[str], str] = str) -> list[str]:
    """Each change with what it saves and costs; `label` gives a setting's name."""
    lines = []
    for change in changes:
        parts = []
        for name, value in change.after.items():
            parts.append(f"{label(name)} {value_text(change.before[name])} -> {value_text(value)}")
        verb = "saves" if change.saves_gb >= 0 else "needs"
        lines.append(f"  {' and '.join(parts)}: {verb} {abs(change.saves_gb):.1f} GB; {change.why}.")
    return lines


def suggest_for(
    settings: Settings,
    sizes: ModelSizes,
    *,
    vram_gb: float | None,
    num_images: int | None = None,
    notes: tuple[str, ...] = (),
) -> MemorySuggestion:
    """Suggest changes so that a run fits a GPU of `vram_gb`, or the one in this computer.

    Raises:
        SettingsError: no GPU to plan for.
    """
    report = report_memory(settings, sizes, vram_gb)
    if report.card.free_gb is None:
        problem = Problem("--vram_gb", "no NVIDIA GPU was found here.", "Give a GPU's memory in GB: --vram_gb 12.")
        raise SettingsError("There is no GPU to plan for:", [problem])
    search = Search(report.shape, report.card, num_images, report.overhead)
    return MemorySuggestion(report, suggest(search, settings), notes)


def out_of_memory_fix(settings: Settings, *, on_gpu: bool) -> str:
    """What to change after a run ran out of memory even with one image at a time, in a sentence."""
    sizes = model_sizes(settings)
    # Batches of one image are the least; num_images keeps a larger one from being suggested in place of accumulation.
    card = Card(has_bf16=card_for(settings.run.device).has_bf16) if on_gpu else NO_CARD
    search = Search(sizes.shape, card, num_images=1)
    images = settings.data.batch_size * settings.data.grad_accum
    reduced = settings.replaced(batch_size=1, grad_accum=images, gradient_checkpointing=True)
    if settings.memory.fused_backward:  # it may run out before a batch was cut, and does not accumulate
        search, reduced = replace(search, num_images=None), settings
    now = settings.flat()
    fixes = []
    for change in changes_that_save(search, reduced):
        values = dict(change.after)
        if "grad_accum" in values:  # parts of a batch hold gradients as accumulated batches do
            values["batch_size"] = 1
        flags = " ".join(_flag(name, value) for name, value in values.items() if value != now[name])
        is_shown = change.saves_gb >= SMALLEST_SHOWN_GB
        fixes.append(f"{flags} (saves about {change.saves_gb:.1f} GB)" if is_shown else flags)
    fixes = [*fixes[:MAX_FIXES], "close other programs that use this memory", "use a machine with more memory"]
    return f"To need less memory, try one or more of these: {'; '.join(fixes[:MAX_FIXES])}."


def _flag(name: str, value: object) -> str:
    if value is True:
        return f"--{name}"
    if value is None:
        return f"--{name} none"
    return f"--{name} {value}"


@dataclass(frozen=True)
class Answer:
    """What to change so that the settings fit, and values for those that were not given."""

    memory: MemorySuggestion
    situation: Situation
    values: SuggestedValues

    def as_object(self) -> dict[str, object]:
        """The answer to `--suggest --json`."""
        values = [{"setting": v.setting, "value": v.value, "why": v.why} for v in self.values.values]
        return {**self.memory.as_object(), "values": values, "notes": list(self.values.notes)}

    def as_text(self) -> str:
        """The answer to `--suggest`."""
        lines = [self.memory.as_text(), "", f"Values to begin with, for {self._situation_text()}:"]
        for why, found in groupby(self.values.values, lambda value: value.why):
            settings = ", ".join(f"{value.setting} {value_text(value.value)}" for value in found)
            lines.append(f"  {settings}: {why}.")
        lines += self.values.notes
        if self.situation.num_images is None:
            lines.append(NO_IMAGES)
        return "\n".join(lines)

    def _situation_text(self) -> str:
        parts = [self.situation.family.title, self.situation.search.card.name]
        if self.situation.num_images is not None:
            parts.insert(0, counted(self.situation.num_images, "image"))
        return ", ".join(parts)


def suggest_for_command(flags: Mapping[str, object], config: Path | None, *, vram_gb: float | None) -> Answer:
    """Suggest values for the settings of a command line, on a GPU of `vram_gb` or the one in this computer.

    Raises:
        SettingsError: wrong settings, or no GPU to plan for.
    """
    gathered = gather(flags, config)
    settings = with_defaults(gathered.values)
    sizes = model_sizes(settings)
    num_images = _num_images(settings) if "data_root" in gathered.values else None
    notes = (*gathered.notes, *map(str, sizes.problems))
    memory = suggest_for(settings, sizes, vram_gb=vram_gb, num_images=num_images, notes=notes)
    situation = situation_of(settings, sizes, vram_gb=vram_gb, num_images=num_images, given=gathered.values)
    return Answer(memory, situation, suggest_values(situation))


def _num_images(settings: Settings) -> int | None:
    """The number of images, which limits the batch; None if it is unknown."""
    try:
        return len(scan_dataset(settings, headers_only=True).examples)
    except DatasetError:
        return None
