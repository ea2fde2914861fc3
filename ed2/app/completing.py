"""What comes after the checkpoint that a run goes on from, and was not done before it was stopped or killed."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath

from ed2.app.reporters.jsonl import EVENTS_NAME, read_events
from ed2.checkpoint.resume import Checkpoint
from ed2.checkpoint.saver import Saver
from ed2.events import CheckpointSaved, RunEnded, SamplesMade, ValidationDone
from ed2.models.base import ModelSource
from ed2.models.process import Discrete
from ed2.sampling.job import SAMPLES
from ed2.small_files import lines_of, objects_in
from ed2.training.validation import VALIDATION


def complete_save(checkpoint: Checkpoint, saver: Saver, source: ModelSource) -> None:
    """Write the single files of the checkpoint that a run goes on from, if its log does not say that they were written.

    A file that was written, and moved away by its owner, is not written again.
    """
    if was_told(checkpoint.path):
        return
    process = Discrete.from_config(source.config("scheduler/scheduler_config.json"))
    saver.complete(checkpoint.path, checkpoint.state.step, source.family, process.prediction_type)


def with_what_is_left(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without what a stop has cut short after it, as far as the run's log says that it was done since.

    A run that goes on does that first. Stopped once more before its next step, it is at the same checkpoint as before.
    """
    state = checkpoint.state
    if not state.cut_short:
        return checkpoint
    told = [event for _, event in read_events(checkpoint.run_dir) if event.step == state.step]
    done = {SAMPLES for event in told if isinstance(event, SamplesMade) and event.is_whole}
    done |= {VALIDATION for event in told if isinstance(event, ValidationDone)}
    state.cut_short = [what for what in state.cut_short if what not in done]
    return replace(checkpoint, values={**checkpoint.values, "state": state.as_dict()})


def end_is_missing(checkpoint: Checkpoint, max_epochs: int) -> bool:
    """Whether a run has all its epochs, and was stopped or killed before it was done with what follows them."""
    state = checkpoint.state
    ends = (event for _, event in read_events(checkpoint.run_dir) if isinstance(event, RunEnded))
    return state.epoch == max_epochs and not any(end.phase == "done" and end.step >= state.step for end in ends)


def was_told(checkpoint: Path) -> bool:
    """Whether the events of a run tell of a checkpoint, which they do after all of it is written."""
    with suppress(OSError):
        told = objects_in(lines_of(checkpoint.parents[1] / EVENTS_NAME))
        saved = (entry for entry in told if entry.get("event") == CheckpointSaved.__name__)
        return any(PurePath(str(entry.get("path"))).name == checkpoint.name for entry in saved)
    return False
