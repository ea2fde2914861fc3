"""Which checkpoints of a run stay, and the removal of the others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ed2.checkpoint.export import Exporter, checkpoint_of, writer_of
from ed2.checkpoint.order import EMA_SUFFIX, TRAINING_STATE, average_of, oldest_first, read_manifest
from ed2.checkpoint.pins import is_kept
from ed2.disk import plain_reason, remove_tree

STATES_KEPT = 3
"""How many of the newest checkpoints keep their training state."""


@dataclass(frozen=True)
class Retention:
    """What a run removes when a new checkpoint is on the disk and was read back.

    Attributes:
        keep_last: so many of the newest checkpoints stay, besides the best one by validation loss and those that are
            marked; None keeps all.
        exporter: whose single files go with their checkpoints.
    """

    keep_last: int | None
    exporter: Exporter | None

    def thin(self, just_saved: Path) -> list[str]:
        """Remove what need not stay beside the checkpoint that was `just_saved`, which is never touched.

        Returns:
            What could not be removed, in sentences.
        """
        ckpts = just_saved.parent
        saved = _oldest_first(ckpts)
        extra = [checkpoint for checkpoint in self._not_needed(saved) if checkpoint != just_saved]
        failed = [sentence for checkpoint in extra for sentence in self._remove(checkpoint)]
        if self.keep_last is not None:  # an average whose own checkpoint was never finished
            failed += _removed(average for average in _orphans(ckpts) if not is_kept(average))
        stay = [checkpoint for checkpoint in saved if checkpoint not in extra]
        states = [c / TRAINING_STATE for c in stay if (c / TRAINING_STATE).is_dir()]
        return failed + _removed(s for s in states[:-STATES_KEPT] if not is_kept(s.parent) and s.parent != just_saved)

    def _not_needed(self, saved: Sequence[Path]) -> list[Path]:
        if self.keep_last is None:
            return []
        best = best_validated(saved)
        return [c for c in saved[: -self.keep_last] if c != best and not is_kept(c)]

    def _remove(self, checkpoint: Path) -> list[str]:
        average = average_of(checkpoint)
        files = [file for folder in (average, checkpoint) for file in self._single_files(folder.name)]
        return _removed([*files, *([average] if average.exists() else []), checkpoint])

    def _single_files(self, name: str) -> list[Path]:
        """The single files of a checkpoint that this run has written, as far as they say so: a .ckpt does not."""
        if self.exporter is None or not self.exporter.folder.is_dir():
            return []
        found = [f for f in self.exporter.folder.glob("*.safetensors") if checkpoint_of(f) == name]
        own = [file for file in found if writer_of(file) == self.exporter.run_name]
        return own + [yaml for file in own if (yaml := file.with_suffix(".yaml")).exists()]


def best_validated(checkpoints: Iterable[Path]) -> Path | None:
    """The checkpoint with the lowest validation loss, the earliest of equals; None where nothing was measured."""
    losses = [(loss, number, c) for number, c in enumerate(checkpoints) if (loss := _validation_loss(c)) is not None]
    return min(losses)[2] if losses else None


def _validation_loss(checkpoint: Path) -> float | None:
    try:
        measured = read_manifest(checkpoint).get("validation")
        return float(measured["loss"]) if measured else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _oldest_first(ckpts: Path) -> list[Path]:
    folders = [index.parent for index in ckpts.glob("[!.]*/model_index.json")]
    return oldest_first(f for f in folders if not f.name.endswith(EMA_SUFFIX))


def _orphans(ckpts: Path) -> list[Path]:
    """Averages without the checkpoint that they are the average of."""
    averages = ckpts.glob(f"[!.]*{EMA_SUFFIX}")
    return [average for average in averages if not average.with_name(average.name.removesuffix(EMA_SUFFIX)).exists()]


def _removed(paths: Iterable[Path]) -> list[str]:
    """Remove files and folders; a sentence for each that cannot be."""
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
