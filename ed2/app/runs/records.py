"""The runs in a runs folder: how far each got, whether it can be resumed, and whether another program trains it."""

import contextlib
import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from ed2.app.reporters.jsonl import EVENTS_NAME
from ed2.app.run_settings import settings_of_checkpoint
from ed2.app.run_view import RunView
from ed2.app.snapshot import ACTIVE, RunSnapshot
from ed2.checkpoint.identity import (
    STATE_FILE,
    TRAINING_STATE,
    age,
    average_of,
    checkpoints_of,
    find_single_file,
    name_of_run,
)
from ed2.checkpoint.run_lock import HOLDER_FILE, Holder, other_trainer
from ed2.curve_names import LOSS_VAL
from ed2.disk import write_whole
from ed2.settings.files import PROGRAM_DIR, with_defaults
from ed2.small_files import read_object

SCAN_SECONDS = 5.0
"""Interval of scans for runs of other programs."""
SCAN_REST = 50
"""The interval as a multiple of a scan's duration, since reading a long run takes a while; the longer one applies."""
NOTES_FILE = "notes.json"
MAX_NAME, MAX_TEXT = 100, 20_000
"""Characters of a name, and of a note."""


@dataclass(frozen=True)
class RunNotes:
    """The name that a run is shown under, if it has another than its folder's, and a text about it."""

    name: str = ""
    text: str = ""

    @classmethod
    def read(cls, run_dir: Path) -> "RunNotes":
        """Those of a run; none where the file is missing or damaged."""
        try:
            found = read_object(run_dir / NOTES_FILE)
        except (OSError, ValueError):
            return cls()
        return cls(str(found.get("name") or "")[:MAX_NAME], str(found.get("text") or "")[:MAX_TEXT])

    def write(self, run_dir: Path) -> None:
        """Keep them in the run's folder. Raises OSError."""
        values = {"name": " ".join(self.name.split())[:MAX_NAME], "text": self.text.strip()[:MAX_TEXT]}
        write_whole(run_dir / NOTES_FILE, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())


@dataclass(frozen=True)
class RunRecord:
    """A run in its folder.

    Attributes:
        state: done, stopped, failed, running, or interrupted if the program was killed.
        checkpoint: the newest one; None if there is none.
        resume_step: step of the newest checkpoint with a training state; None if there is none.
        trainer: another program that is training this run.
        best: step and loss of the best validation; None if nothing was validated.
        notes: the name it is shown under, and what a person noted.
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
    resume_step: int | None
    trainer: Holder | None = None
    max_epochs: int = 0
    best: tuple[int, float] | None = None
    notes: RunNotes = field(default_factory=RunNotes)

    @property
    def name(self) -> str:
        """What it is called: as a person named it, else as its folder."""
        return self.notes.name or self.folder.name


class ExternalRuns:
    """Finds runs below a runs folder that other programs are training, by their locks and at almost no cost.

    A lock is tried only if its holder file was written since the lock was last found free.
    """

    def __init__(self, logdir: Path) -> None:
        self._logdir = logdir
        self._free: dict[Path, int] = {}

    def newest(self) -> tuple[Path, Holder] | None:
        """The folder of the run that another program started last and is still training, and that program."""
        for started_at, run_dir in sorted(self._started(), reverse=True):
            if self._free.get(run_dir) == started_at:
                continue
            if other := other_trainer(run_dir):
                return run_dir, other
            self._free[run_dir] = started_at
        return None

    def _started(self) -> list[tuple[int, Path]]:
        """When each run was last started or resumed, with its folder."""
        found = []
        for file in self._logdir.glob(f"*/{HOLDER_FILE}"):
            with contextlib.suppress(OSError):  # removed just now
                found.append((file.stat().st_mtime_ns, file.parent))
        return found


def find_runs(logdir: Path, live: Path | None = None, limit: int | None = None) -> list[RunRecord]:
    """The newest `limit` runs below `logdir`, newest first; `live` is the folder of this program's run."""
    files = sorted(logdir.glob(f"*/{EVENTS_NAME}"), key=_modified_at, reverse=True)
    return [_record(file.parent, is_live=file.parent == live) for file in files[:limit]]


def find_run(logdir: Path, name: str, live: Path | None = None) -> RunRecord | None:
    """The run below `logdir` whose folder has this name; None if there is none."""
    for file in logdir.glob(f"*/{EVENTS_NAME}"):
        if file.parent.name == name:
            return _record(file.parent, is_live=file.parent == live)
    return None


def nearest_checkpoint(folder: Path, step: int) -> Path | None:
    """The checkpoint of a run nearest to a step; None if it has none.

    Of two that are as near it is the earlier one, and of two of the same step one with a training state.
    """

    def distance(checkpoint: Path) -> tuple[int, int, bool]:
        own = age(checkpoint)[0]
        return abs(own - step), own, not (checkpoint / TRAINING_STATE / STATE_FILE).is_file()

    return min(checkpoints_of(folder), key=distance, default=None)


def resume_step(folder: Path) -> int | None:
    """The step of a run's newest checkpoint with a training state; None if there is none."""
    for checkpoint in reversed(checkpoints_of(folder)):
        if (checkpoint / TRAINING_STATE / STATE_FILE).is_file():
            return age(checkpoint)[0]
    return None


def single_file_of(checkpoint: Path) -> Path | None:
    """The single file that its run, or somebody later, made of a checkpoint; None without one. Raises SettingsError."""
    folder = Path(with_defaults(settings_of_checkpoint(checkpoint)).checkpoint.save_ckpt_dir or PROGRAM_DIR)
    return find_single_file(folder, name_of_run(checkpoint.parent.parent), checkpoint.name)


def replay_run(folder: Path) -> RunSnapshot:
    """The state of a run according to the events in its folder. Raises OSError."""
    return _replay(folder, _written(folder))


def _written(folder: Path) -> tuple[float, int]:
    written = (folder / EVENTS_NAME).stat()
    return written.st_mtime, written.st_size


@lru_cache(maxsize=16)
def _replay(folder: Path, written: tuple[float, int]) -> RunSnapshot:
    """Replay a run's events, once for each time and size of their file: a long run takes a second."""
    view = RunView()
    view.replay(folder)
    return view.snapshot()


@lru_cache(maxsize=512)
def _outline(folder: Path, written: tuple[float, int]) -> RunSnapshot:
    """The same without curves other than of validations, in a fifth of the time."""
    view = RunView()
    view.replay(folder, has_curves=False)
    return view.snapshot()


def best_validation(shown: RunSnapshot) -> tuple[int, float] | None:
    """Step and loss of the best validation of a run; None if nothing was validated."""
    curve = shown.curves.get(LOSS_VAL)
    if curve is None or not curve.points:
        return None
    best = min(curve.points, key=lambda point: point.low)
    return best.step, best.low


def _record(folder: Path, *, is_live: bool) -> RunRecord:
    shown = _outline(folder, _written(folder))
    trainer, checkpoint, step = None, None, shown.step
    if not is_live:
        trainer = other_trainer(folder)
    state: str = shown.state
    if is_live or trainer:
        state = "running"
    elif shown.state in ACTIVE or shown.state == "idle":
        state = "interrupted"
    if checkpoints := checkpoints_of(folder):
        checkpoint = checkpoints[-1]
        step = max(step, age(checkpoint)[0])
    samples = (one.sample.path for one in reversed(shown.samples))
    return RunRecord(
        folder=folder,
        state=state,
        step=step,
        total=shown.total,
        loss=shown.loss,
        begun_at=datetime.fromtimestamp(_modified_at(folder / "manifest.json")),
        size_bytes=folder_size(folder),
        last_sample=next((path for path in samples if path.is_file()), None),
        checkpoint=checkpoint,
        resume_step=resume_step(folder),
        trainer=trainer,
        max_epochs=shown.max_epochs,
        best=best_validation(shown),
        notes=RunNotes.read(folder),
    )


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder, except those that a save is renaming right now."""
    total = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(inner) / name).stat().st_size
    return total


def saved_size(checkpoint: Path) -> int:
    """Bytes of a checkpoint, with its EMA."""
    return sum(folder_size(folder) for folder in (checkpoint, average_of(checkpoint)) if folder.is_dir())


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
