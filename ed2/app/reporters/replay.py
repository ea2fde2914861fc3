"""The events of a run out of its folder: the way back from `events.jsonl`."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

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
from ed2.small_files import lines_of, objects_in

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
    with suppress(OSError):
        for values in objects_in(lines_of(run_dir / EVENTS_NAME)):
            try:
                event = _event(values, run_dir)
                moment = datetime.fromisoformat(values["time"]).astimezone(UTC)
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
                continue
            if event:
                yield moment, event


def _event(values: dict[str, Any], run_dir: Path) -> Event | None:
    """The event of a line; None where it is of no kind that is shown. Raises ValueError where it holds other things."""
    kind = KINDS.get(values["event"])
    if kind is None:
        return None
    own = _own(values, kind, run_dir)
    if kind is SamplesMade:
        own["samples"] = [_own(sample, Sample, run_dir) for sample in values["samples"]]
    if kind in (MetricsLogged, ValidationDone):
        own["values"] = {tag: value for tag, value in values["values"].items() if value is not None}
    event: Event = _reader(values["event"]).validate_python(own)
    return event


@cache
def _reader(name: str) -> TypeAdapter[Any]:
    """What makes an event of that kind, and raises ValueError where a field is of another kind than it says."""
    return TypeAdapter(KINDS[name])


def _own(values: Mapping[str, Any], kind: type, run_dir: Path) -> dict[str, Any]:
    """The fields of `kind` among `values`; where a path lies, and texts that can be printed."""
    own = {f.name: values[f.name] for f in fields(kind) if f.name in values}
    return {name: run_dir / value if name in PATHS and isinstance(value, str) else _written_out(value)
            for name, value in own.items()}  # fmt: skip


def _written_out(value: Any) -> Any:
    """The same with what is no text in it, such as bytes of a file's name, spelled out."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_written_out(name): _written_out(item) for name, item in value.items()}
    return [_written_out(item) for item in value] if isinstance(value, list) else value
