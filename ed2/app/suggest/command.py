"""The answer to `--suggest`: what to change so that a run fits a GPU, and values to begin with."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ed2.app.images.scanning import scan_dataset
from ed2.app.memory.suggestion import Suggestion, suggest_for, value_text
from ed2.app.preflight import model_sizes
from ed2.app.suggest.rules import Suggestions, suggest_values
from ed2.app.suggest.situation import Situation, situation_of
from ed2.errors import DatasetError
from ed2.settings.files import with_defaults
from ed2.settings.gather import gather
from ed2.settings.schema import Settings
from ed2.text import counted

NO_IMAGES = "With --data_root IMAGES, epochs, samples, saves and the project name are suggested too."


@dataclass(frozen=True)
class Answer:
    """What to change so that the settings fit, and values for those that were not given."""

    memory: Suggestion
    situation: Situation
    values: Suggestions

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
