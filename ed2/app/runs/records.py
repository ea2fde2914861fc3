"""The runs in a folder of logs: how far each went, and whether it can go on."""

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from ed2.app.reporters.jsonl import EVENTS_NAME
from ed2.app.snapshot import ACTIVE, RunSnapshot, RunView
from ed2.checkpoint.identity import EMA_SUFFIX, STATE_FILE, TRAINING_STATE, age, oldest_first
from ed2.checkpoint.run_lock import Holder, other_trainer


@dataclass(frozen=True)
class RunRecord:
    """A run in its folder.

    Attributes:
        state: done, stopped, failed, running, or interrupted where the program was killed.
        checkpoint: the newest one; None where there is none.
        goes_on_from: step of the newest checkpoint that has what a run needs to go on; None where none has.
        trainer: another program that trains this run now.
    """

    folder: Path
    state: str
    step: int
    total: int
    loss: float | None
    begun_at: datetime
    size_bytes: int
    last_sample: Path | None
    checkpoint: Path | None
    goes_on_from: int | None
    trainer: Holder | None = None
    max_epochs: int = 0

    @property
    def can_continue(self) -> bool:
        """Whether a checkpoint has what a run needs to go on."""
        return self.goes_on_from is not None


def find_runs(logdir: Path, live: Path | None = None, limit: int | None = None) -> list[RunRecord]:
    """The newest `limit` runs below `logdir`, newest first; `live` is the folder of the one that is going on."""
    files = sorted(logdir.glob(f"*/{EVENTS_NAME}"), key=lambda file: _changed(file), reverse=True)
    return [_record(file.parent, is_live=file.parent == live) for file in files[:limit]]


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, without the averages that belong to them."""
    found = (index.parent for index in (folder / "ckpts").glob("[!.]*/model_index.json"))
    return oldest_first(checkpoint for checkpoint in found if not checkpoint.name.endswith(EMA_SUFFIX))


def step_to_go_on_from(folder: Path) -> int | None:
    """The step of a run's newest checkpoint that it can go on from; None where it has none."""
    whole = [found for found in checkpoints_of(folder) if (found / TRAINING_STATE / STATE_FILE).is_file()]
    return age(whole[-1])[0] if whole else None


def run_named(logdir: Path, name: str, live: Path | None = None) -> RunRecord | None:
    """The run below `logdir` whose folder has this name; None where there is none."""
    file = next((file for file in logdir.glob(f"*/{EVENTS_NAME}") if file.parent.name == name), None)
    return _record(file.parent, is_live=file.parent == live) if file else None


@lru_cache(maxsize=256)
def _replayed(folder: Path, written: tuple[float, int]) -> RunSnapshot:
    """What a run's events come to, read once as long as they are as they were: a long run takes a tenth of a second.

    Args:
        folder: of the run.
        written: when its events were written last, and how many bytes.
    """
    view = RunView()
    view.replay(folder)
    return view.snapshot()


def told_run(folder: Path) -> RunSnapshot:
    """What the events in a run's folder come to. Raises OSError."""
    written = (folder / EVENTS_NAME).stat()
    return _replayed(folder, (written.st_mtime, written.st_size))


def _record(folder: Path, *, is_live: bool) -> RunRecord:
    shown = told_run(folder)
    trainer = None if is_live else other_trainer(folder)
    ended = "interrupted" if shown.state in ACTIVE or shown.state == "idle" else shown.state
    checkpoints = checkpoints_of(folder)
    samples = [s.sample.path for s in shown.samples if s.sample.path.is_file()]
    return RunRecord(
        folder=folder,
        state="running" if is_live or trainer else ended,
        step=max(shown.step, age(checkpoints[-1])[0] if checkpoints else 0),
        total=shown.total,
        loss=shown.loss,
        begun_at=datetime.fromtimestamp(_changed(folder / "manifest.json")),
        size_bytes=_size(folder),
        last_sample=samples[-1] if samples else None,
        checkpoint=checkpoints[-1] if checkpoints else None,
        goes_on_from=step_to_go_on_from(folder),
        trainer=trainer,
        max_epochs=shown.max_epochs,
    )


def _size(folder: Path) -> int:
    """Bytes of all files below a folder; those that a save renames meanwhile are passed over."""
    sizes = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes += (Path(inner) / name).stat().st_size
    return sizes


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
