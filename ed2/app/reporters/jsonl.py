"""`events.jsonl`: every event of a run but its steps and their like, one JSON object a line, to rebuild a page from."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path

from ed2.app.reporters.growing import GrowingFile
from ed2.disk import write_pieces
from ed2.events import Event, Progressed, RunStarted, SavingChanged, StepDone
from ed2.small_files import lines_of, parsed_object

EVENTS_NAME = "events.jsonl"

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass
class JsonlReporter:
    """Appends events to `events.jsonl` of a run's folder; each line is on its way to the disk when it is told."""

    run_dir: Path
    _file: GrowingFile = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._file = GrowingFile(self.run_dir / EVENTS_NAME, f"The list of events {EVENTS_NAME}")

    def __call__(self, event: Event) -> None:
        """Write an event. Raises RecordError."""
        if isinstance(event, StepDone | Progressed):
            return
        text = json.dumps(event_json(event, self.run_dir), ensure_ascii=False, allow_nan=False)
        line = f"{text}\n".encode(errors="backslashreplace")  # a file name that is no proper text: still proper JSON
        self._file.write(line)
        if isinstance(event, RunStarted):  # a file that is made anew says of which run it is
            self._file.head = line
        if isinstance(event, SavingChanged) and event.is_saving:  # what a checkpoint counts as told is on the disk
            self._file.to_disk()

    def close(self) -> str:
        """Close the file; says what is lost."""
        return self._file.close()


def event_json(event: Event, run_dir: Path) -> dict[str, Json]:
    """An event as a JSON object: its kind, the time in UTC, and its fields.

    Paths inside `run_dir` are relative to it, with forward slashes; numbers that are not finite are null.
    """
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"event": type(event).__name__, "time": time, **_fields(event, run_dir)}


def cut_back(path: Path, step: int, *, without: str | None = None) -> None:
    """Take the lines after `step`, and torn ones, out of a JSONL file; nothing happens where there is no file.

    Args:
        path: the file.
        step: the last one that stays.
        without: kind of event of which those of this step go too.

    Raises:
        OSError: the file cannot be read or written.
    """
    if not path.exists():
        return
    stays, num_bytes = [], 0
    for line in lines_of(path):
        stays.append(_is_until(line, step, without))
        num_bytes += len(line) + 1
    if not all(stays) or num_bytes != path.stat().st_size:  # the end of a line may be torn off alone
        write_pieces(path, (line + b"\n" for line, is_kept in zip(lines_of(path), stays, strict=True) if is_kept))


def _is_until(line: bytes, step: int, without: str | None) -> bool:
    try:
        entry = parsed_object(line)
        return int(entry["step"]) <= step - (without is not None and entry.get("event") == without)
    except (ValueError, TypeError, KeyError):
        return False


def _fields(value: object, run_dir: Path) -> dict[str, Json]:
    assert is_dataclass(value)
    return {item.name: _as_json(getattr(value, item.name), run_dir) for item in fields(value)}


def _as_json(value: object, run_dir: Path) -> Json:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        path, root = value.absolute(), run_dir.absolute()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(value)
    return _many(value, run_dir)


def _many(value: object, run_dir: Path) -> Json:
    if isinstance(value, Mapping):
        return {str(key): _as_json(item, run_dir) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item, run_dir) for item in value]
    return _fields(value, run_dir) if is_dataclass(value) else str(value)
