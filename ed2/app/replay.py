"""The events of a run out of its folder: the way back from `events.jsonl`."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from ed2.app.reporters.jsonl import EVENTS_NAME
from ed2.events import (
    CheckpointSaved,
    EpochEnded,
    Event,
    MemoryMeasured,
    MetricsLogged,
    PhaseChanged,
    RunEnded,
    RunStarted,
    Sample,
    SamplesMade,
    ValidationDone,
    Warned,
)
from ed2.small_files import content_of, objects_in

KINDS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        RunStarted, PhaseChanged, MetricsLogged, EpochEnded, SamplesMade, CheckpointSaved, Warned, RunEnded,
        ValidationDone, MemoryMeasured,
    )
}  # fmt: skip
PATHS = ("run_dir", "path", "checkpoint", "single_file")


def told_events(run_dir: Path) -> Iterator[tuple[datetime, Event]]:
    """Yield what a run told, with the times; lines that are torn or of another version are passed over."""
    try:
        content = content_of(run_dir / EVENTS_NAME)
    except OSError:
        return
    for values in objects_in(content):
        try:
            event = _event(values, run_dir)
            if event:
                yield datetime.fromisoformat(values["time"]), event
        except (ValueError, TypeError, KeyError, AttributeError):
            continue


def _event(values: dict[str, Any], run_dir: Path) -> Event | None:
    kind = KINDS.get(values["event"])
    if kind is None:
        return None
    own = _own(values, kind, run_dir)
    if kind is SamplesMade:
        own["samples"] = tuple(Sample(**_own(sample, Sample, run_dir)) for sample in values["samples"])
    if kind in (MetricsLogged, ValidationDone):
        own["values"] = {tag: value for tag, value in values["values"].items() if value is not None}
    return kind(**own)


def _own(values: Mapping[str, Any], kind: type, run_dir: Path) -> dict[str, Any]:
    """The fields of `kind` among `values`, as Python has them."""
    return {f.name: _value(f.name, values[f.name], run_dir) for f in fields(kind) if f.name in values}


def _value(name: str, value: Any, run_dir: Path) -> Any:
    if name in PATHS and isinstance(value, str):
        return run_dir / value
    return tuple(value) if isinstance(value, list) else value
