"""Finishing a save that a killed program has begun: its single files come after the checkpoint."""

import json
from pathlib import Path

from ed2.app.reporters.jsonl import EVENTS_NAME
from ed2.checkpoint.resume import Checkpoint
from ed2.checkpoint.saver import Saver
from ed2.events import CheckpointSaved
from ed2.models.base import ModelSource
from ed2.models.noise import NoiseSchedule


def complete_save(checkpoint: Checkpoint, saver: Saver, source: ModelSource) -> None:
    """Write the single files of the checkpoint that a run goes on from, if its log does not say that they were written.

    A file that was written, and moved away by its owner, is not written again.
    """
    if _was_told(checkpoint.run_dir / EVENTS_NAME, checkpoint.path.name):
        return
    schedule = NoiseSchedule.from_config(source.config("scheduler/scheduler_config.json"))
    saver.complete(checkpoint.path, checkpoint.state.step, source.family, schedule.prediction_type)


def _was_told(log: Path, name: str) -> bool:
    """Whether the events of a run tell of the checkpoint `name`, which they do after all of it is written."""
    try:
        lines = log.read_bytes().split(b"\n")
    except OSError:
        return False
    return any(_tells_of(line, name) for line in lines if CheckpointSaved.__name__.encode() in line)


def _tells_of(line: bytes, name: str) -> bool:
    try:
        entry = json.loads(line)
        return bool(entry["event"] == CheckpointSaved.__name__ and Path(entry["path"]).name == name)
    except (ValueError, KeyError, TypeError):
        return False
