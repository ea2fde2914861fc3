"""`train.py --check`: what a run would do, without torch and without writing anything but the picture index."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ed2.app.preflight import ModelSizes, disk_forecast, model_sizes
from ed2.app.scanning import scan_dataset
from ed2.app.validating import SetApart, set_apart
from ed2.data.example import Dataset
from ed2.data.report import RunPlan, as_json, as_text
from ed2.settings.checks import without_effect
from ed2.settings.files import with_defaults
from ed2.settings.gather import gather
from ed2.settings.schema import Settings


@dataclass(frozen=True)
class Checked:
    """What was found out about a run."""

    settings: Settings
    dataset: Dataset
    sizes: ModelSizes
    apart: SetApart
    notes: tuple[str, ...] = ()
    """What has become of names of the original."""

    @property
    def plan(self) -> RunPlan:
        """How the pictures would be trained."""
        data, run = self.settings.data, self.settings.run
        return RunPlan(
            seed=run.seed,
            batch_size=data.batch_size,
            grad_accum=data.grad_accum,
            max_epochs=run.max_epochs,
            kept_apart=self.apart.keys,
        )

    def as_object(self) -> dict[str, Any]:
        """The answer to `--check --json`."""
        report = as_json(self.dataset, self.plan)
        told = [{"path": p.path, "what": p.what, "fix": p.fix} for p in self.sizes.problems]
        disk = disk_forecast(self.settings, self.sizes)
        return {**report, "problems": [*report["problems"], *told], "disk": disk}

    def as_text(self) -> str:
        """The same for people."""
        disk = disk_forecast(self.settings, self.sizes)
        size, free = (f"{disk[name] / 2**30:.1f} GB" for name in ("checkpoint_bytes", "free_bytes"))
        lines = [f"A checkpoint takes about {size} on the disk; {free} are free."]
        if disk["checkpoints"] > 1:
            total = disk["checkpoints"] * disk["checkpoint_bytes"] / 2**30
            lines.append(f"{disk['checkpoints']} checkpoints will be kept: about {total:.1f} GB.")
        lines += [*self.notes, *self.apart.notes, *map(str, self.sizes.problems), *without_effect(self.settings)]
        return as_text(self.dataset, self.plan) + "\n" + "\n".join(lines)


def checked(flags: Mapping[str, object], config: Path | None, *, quiet: bool) -> Checked:
    """Look at the settings, the pictures and the model.

    Raises:
        SettingsError: wrong settings.
        DatasetError: nothing to train on.
    """
    gathered = gather(flags, config)
    settings = with_defaults(gathered.values)
    dataset = scan_dataset(settings, progress=None if quiet else counted_on(sys.stderr.write))
    return Checked(settings, dataset, model_sizes(settings), set_apart(settings, dataset), gathered.notes)


def counted_on(write: Callable[[str], object]) -> Callable[[int, int], None]:
    """A progress line that counts pictures, for a terminal."""

    def progress(done: int, total: int) -> None:
        if sys.stderr.isatty() and (done % 20 == 0 or done == total):
            write(f"\rreading picture {done} of {total}" + ("\n" if done == total else ""))

    return progress
