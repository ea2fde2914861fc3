"""How a run would start, decided as a run decides it, but without reading the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ed2.app.images.scanning import TRAINING, scan_to_start
from ed2.app.resolve import resolve_settings
from ed2.app.resuming import resolve_resume
from ed2.checkpoint.resume import LEFT_OUT, Checkpoint
from ed2.data.example import Dataset
from ed2.settings.schema import Settings


@dataclass(frozen=True)
class Resolved:
    settings: Settings
    base: Path
    checkpoint: Checkpoint | None
    same_folder: bool
    notes: tuple[str, ...]

    @property
    def is_finished(self) -> bool:
        return self.checkpoint is not None and self.checkpoint.state.epoch >= self.settings.run.max_epochs


def resolved(
    values: dict[str, object], circumstances: Mapping[str, Any] | None = None, dataset: Dataset | None = None
) -> Resolved:
    """What a run with these settings would be; by default under the circumstances of its checkpoint."""
    found = resolve_settings(values, None)
    checkpoint = Checkpoint.open(found.checkpoint) if found.checkpoint else None
    now = circumstances or (checkpoint.values if checkpoint else {})
    if dataset is None:
        dataset = scan_to_start(found.settings, checkpoint.values[LEFT_OUT][TRAINING] if checkpoint else None)
    resume = resolve_resume(checkpoint, found.settings, dataset, now)
    return Resolved(found.settings, found.base, resume.checkpoint, resume.same_folder, (*found.notes, *resume.notes))
