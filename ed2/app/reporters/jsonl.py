"""`events.jsonl`: a run's events, one JSON object a line, written, cut back, and read to rebuild the page from."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ed2.app.reporters.growing import GrowingFile
from ed2.disk import write_pieces
from ed2.events import (
    Event,
    ImagesMeasured,
    MetricsLogged,
    Progressed,
    RunStarted,
    Sample,
    SampleDrawn,
    SamplesMade,
    SavingChanged,
    StepDone,
    ValidationDone,
)
from ed2.small_files import lines_of, parse_object

EVENTS_NAME = "events.jsonl"
_NOT_WRITTEN = (StepDone, Progressed, SampleDrawn, ImagesMeasured)
_NOT_READ = (*_NOT_WRITTEN, SavingChanged)
KINDS = {kind.__name__: kind for kind in Event.__subclasses__() if kind not in _NOT_READ}
"""The events that are read back, by the name in their line of the file."""
PATHS = ("run_dir", "path", "checkpoint", "single_file")

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass
class JsonlReporter:
    """Appends events to `events.jsonl` of a run's folder, each line at once."""

    run_dir: Path
    _file: GrowingFile = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._file = GrowingFile(self.run_dir / EVENTS_NAME, f"The list of events {EVENTS_NAME}")

    def __call__(self, event: Event) -> None:
        """Write an event. Raises LogWriteError."""
        if isinstance(event, _NOT_WRITTEN):
            return
        text = json.dumps(event_json(event, self.run_dir), ensure_ascii=False, allow_nan=False)
        line = f"{text}\n".encode(errors="backslashreplace")  # valid JSON even if a file's name is not valid text
        self._file.write(line)
        if isinstance(event, RunStarted):  # a file that is created again starts with its run too
            self._file.head = line
        if isinstance(event, SavingChanged) and event.is_saving:  # events before a checkpoint are on the disk before it
            self._file.to_disk()

    def close(self) -> str:
        """Close the file; says what was lost."""
        return self._file.close()


def event_json(event: Event, run_dir: Path) -> dict[str, Json]:
    """An event as a JSON object: its kind, the time in UTC, and its fields.

    Paths inside `run_dir` are relative to it, with forward slashes; numbers that are not finite are null.
    """
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"event": type(event).__name__, "time": time, **_fields_json(event, run_dir)}


def _fields_json(value: object, run_dir: Path) -> dict[str, Json]:
    assert is_dataclass(value)
    return {item.name: _as_json(getattr(value, item.name), run_dir) for item in fields(value)}


def _as_json(value: object, run_dir: Path) -> Json:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        path, root = value.absolute(), run_dir.absolute()
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _as_json(item, run_dir) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item, run_dir) for item in value]
    return _fields_json(value, run_dir) if is_dataclass(value) else str(value)


def cut_back(path: Path, step: int, *, without: str | None = None) -> None:
    """Remove the lines after `step`, and torn ones, from a JSONL file, if there is one.

    Of the kind of event `without`, the lines of `step` itself are removed too.

    Raises:
        OSError: the file cannot be read or written.
    """
    if not path.exists():
        return
    stays, num_bytes = [], 0
    for line in lines_of(path):
        stays.append(_is_until(line, step, without))
        num_bytes += len(line) + 1
    if not all(stays) or num_bytes != path.stat().st_size:  # the last line may only be missing its newline
        kept = (line for line, is_kept in zip(lines_of(path), stays, strict=True) if is_kept)
        write_pieces(path, (line + b"\n" for line in kept))


def _is_until(line: bytes, step: int, without: str | None) -> bool:
    try:
        entry = parse_object(line)
        return int(entry["step"]) <= step - (without is not None and entry.get("event") == without)
    except (ValueError, TypeError, KeyError):
        return False


def read_events(run_dir: Path, *, has_curves: bool = True) -> Iterator[tuple[datetime, Event]]:
    """Yield a run's events with their times; lines that are torn or from another version are skipped.

    Without curves, only the last of the measurements between two other events is read, in a fifth of the time.
    """
    with suppress(OSError):
        lines = lines_of(run_dir / EVENTS_NAME)
        for line in lines if has_curves else _without_curves(lines):
            try:
                moment, event = _parsed_line(line, run_dir)
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
                continue
            if event:
                yield moment, event


def _without_curves(lines: Iterator[bytes]) -> Iterator[bytes]:
    before = b""
    for line in lines:
        if before and not (before.startswith(_IS_METRICS) and line.startswith(_IS_METRICS)):
            yield before
        before = line
    if before:
        yield before


@dataclass(frozen=True)
class _MetricsLine:
    """A line of `MetricsLogged`, of which a long run has a hundred thousand: they are read in one go."""

    time: str
    step: int
    values: dict[str, float | None]


@cache
def _metrics_line() -> TypeAdapter[_MetricsLine]:
    return TypeAdapter(_MetricsLine)


_IS_METRICS = json.dumps({"event": MetricsLogged.__name__})[:-1].encode()


def _parsed_line(line: bytes, run_dir: Path) -> tuple[datetime, Event | None]:
    """The time and event of a line; raises ValueError, among others, where it is invalid."""
    if line.startswith(_IS_METRICS):
        read = _metrics_line().validate_json(line)
        numbers = {tag: value for tag, value in read.values.items() if value is not None and math.isfinite(value)}
        return _moment(read.time), MetricsLogged(read.step, numbers)
    values = parse_object(line)
    return _moment(values["time"]), _parsed_event(values, run_dir)


def _moment(time: str) -> datetime:
    return datetime.fromisoformat(time).astimezone(UTC)


def _parsed_event(values: dict[str, Any], run_dir: Path) -> Event | None:
    """The event of a line; None for kinds that are not read back. Raises ValueError where the line is invalid."""
    kind = KINDS.get(values["event"])
    if kind is None:
        return None
    own = _fields_of(kind, values, run_dir)
    if kind is SamplesMade:
        own["samples"] = [_fields_of(Sample, sample, run_dir) for sample in values["samples"]]
    if kind is ValidationDone:
        own["values"] = {tag: value for tag, value in values["values"].items() if value is not None}
    event: Event = _validator(values["event"]).validate_python(own)
    return event


@cache
def _validator(name: str) -> TypeAdapter[Any]:
    """Makes an event of that kind; raises ValueError where a field has the wrong type."""
    return TypeAdapter(KINDS[name])


def _fields_of(kind: type, values: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """The fields of `kind` among `values`, with absolute paths and printable texts."""
    own: dict[str, Any] = {}
    for item in fields(kind):
        if item.name in values:
            value = values[item.name]
            own[item.name] = _read_value(item.name, value, run_dir)
    return own


def _read_value(name: str, value: Any, run_dir: Path) -> Any:
    if name == "paths" and isinstance(value, list):
        return [_read_value("path", one, run_dir) for one in value]
    if name in PATHS and isinstance(value, str):
        return run_dir / value
    return _printable(value)


def _printable(value: Any) -> Any:
    """The same with what is not valid text, such as bytes of a file's name, spelled out."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_printable(name): _printable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value
