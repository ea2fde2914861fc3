"""Which checkpoints of a run are kept, and removing the others."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ed2.checkpoint.export import Exporter
from ed2.checkpoint.identity import (
    EMA_SUFFIX,
    TRAINING_STATE,
    average_of,
    best_validated,
    checkpoint_name_of,
    checkpoints_in,
    is_pinned,
    writer_of,
)
from ed2.curve_names import LOSS_VAL
from ed2.disk import remove_tree
from ed2.disk_errors import plain_reason
from ed2.events import Event, ValidationDone
from ed2.models.files.description import is_shipped_yaml

STATES_KEPT = 3
"""How many of the newest checkpoints keep their training state."""


@dataclass
class LatestValidation:
    """Remembers a run's last validation, for the manifests of its checkpoints.

    Attributes:
        measured: step and loss of the last validation; None before the first.
    """

    measured: dict[str, float] | None = None

    def __call__(self, event: Event) -> None:
        """Remember the loss of a validation, if it is finite."""
        if not isinstance(event, ValidationDone):
            return
        loss = event.values.get(LOSS_VAL, math.nan)
        if math.isfinite(loss):
            self.measured = {"step": event.step, "loss": loss}


@dataclass(frozen=True)
class Retention:
    """Removes checkpoints once a new one has been written and read back.

    Attributes:
        keep_last: how many of the newest checkpoints stay, besides pinned ones and the best by validation loss; None
            keeps all.
        exporter: whose single files go with their checkpoints.
        best: begins the names of checkpoints that a validation saved, of which only the newest stays; empty for none.
    """

    keep_last: int | None
    exporter: Exporter | None
    best: str = ""

    def thin(self, just_saved: Path) -> list[str]:
        """Remove what is no longer needed besides the checkpoint `just_saved`, which is never touched.

        Returns:
            What could not be removed, in sentences.
        """
        ckpts, failed = just_saved.parent, []
        checkpoints = checkpoints_in(ckpts)
        for checkpoint in self._outdated_best(checkpoints, just_saved):
            failed += self._remove(checkpoint)
            checkpoints.remove(checkpoint)
        if self.keep_last is not None:
            for checkpoint in self._surplus(checkpoints, just_saved):
                failed += self._remove(checkpoint)
                checkpoints.remove(checkpoint)
            failed += _remove_all(average for average in _orphans(ckpts) if not is_pinned(average))
        with_state = [checkpoint for checkpoint in checkpoints if (checkpoint / TRAINING_STATE).is_dir()]
        for checkpoint in with_state[:-STATES_KEPT]:
            if checkpoint != just_saved and not is_pinned(checkpoint):
                failed += _remove_all([checkpoint / TRAINING_STATE])
        return failed

    def _outdated_best(self, checkpoints: Sequence[Path], just_saved: Path) -> list[Path]:
        """The best checkpoints of before, if `just_saved` is a better one."""
        if not self.best or not just_saved.name.startswith(self.best):
            return []
        others = [checkpoint for checkpoint in checkpoints if checkpoint.name.startswith(self.best)]
        return [checkpoint for checkpoint in others if checkpoint != just_saved and not is_pinned(checkpoint)]

    def _surplus(self, checkpoints: Sequence[Path], just_saved: Path) -> list[Path]:
        assert self.keep_last is not None
        stay = (just_saved, best_validated(checkpoints))
        return [c for c in checkpoints[: -self.keep_last] if c not in stay and not is_pinned(c)]

    def _remove(self, checkpoint: Path) -> list[str]:
        average = average_of(checkpoint)
        paths = [*self._single_files(average.name), *self._single_files(checkpoint.name)]
        if average.exists():
            paths.append(average)
        return _remove_all([*paths, checkpoint])

    def _single_files(self, name: str) -> list[Path]:
        """A checkpoint's single files that name this run as their writer, which a .ckpt cannot do."""
        if self.exporter is None or not self.exporter.folder.is_dir():
            return []
        found = []
        for file in self.exporter.folder.glob("*.safetensors"):
            if checkpoint_name_of(file) == name and writer_of(file) == self.exporter.run_name:
                found.append(file)
                found += _own_yaml(file)
        return found


def _own_yaml(single_file: Path) -> list[Path]:
    """The .yaml beside a single file, unless it is not from this program or describes another file too."""
    beside = single_file.with_suffix(".yaml")
    is_shared = single_file.with_suffix(".ckpt").exists()
    try:
        if not is_shared and is_shipped_yaml(beside):
            return [beside]
        return []
    except OSError:
        return []


def _orphans(ckpts: Path) -> list[Path]:
    """Averages whose own checkpoint was never finished."""
    averages = ckpts.glob(f"[!.]*{EMA_SUFFIX}")
    return [average for average in averages if not average.with_name(average.name.removesuffix(EMA_SUFFIX)).exists()]


def _remove_all(paths: Iterable[Path]) -> list[str]:
    """Remove files and folders; gives a sentence for each that cannot be removed."""
    failed = []
    for path in paths:
        try:
            if path.is_dir():
                remove_tree(path)
            else:
                path.unlink()
        except OSError as error:
            failed.append(f"{path} could not be removed: {plain_reason(error)}.")
    return failed
