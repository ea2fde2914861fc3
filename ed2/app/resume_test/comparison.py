"""The result of a resume test: what differs in weights, training state, metrics, samples and curves."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ed2.app.reporters.jsonl import EVENTS_NAME
from ed2.checkpoint.identity import CKPTS, EMA_SUFFIX, MANIFEST
from ed2.curve_names import PERFORMANCE
from ed2.sampling.images import SAMPLES_DIR, SAMPLES_LIST
from ed2.sampling.sheet import SHEET_NAME  # not compared, since it names the folder of its run
from ed2.small_files import lines_of, objects_in, parse_json
from ed2.text import counted, duration

TIMES_AND_PLACES = frozenset({"saved_at", "run", "seconds", "written_at", "settings"})
"""Entries of a checkpoint's JSON files that differ in any two runs; settings name several folders."""
MAX_SHOWN = 20
WHY = (
    "Without --deterministic, some GPU operations add numbers in a different order each time: resuming works, but the "
    "results are not bit-identical. With --deterministic, or on a CPU, this is a bug: please report it."
)


@dataclass(frozen=True)
class ResumeTestResult:
    """What a test of so many steps found to differ, half of which were saved before the kill."""

    steps: int
    half: int
    found: tuple[str, ...]
    seconds: float

    @property
    def is_same(self) -> bool:
        """Whether the killed run ended with the same bytes."""
        return not self.found

    def as_text(self) -> str:
        """For people."""
        done = (
            f"{counted(self.steps, 'step')} in one go, against {self.half}, a kill, and {self.steps - self.half} more, "
            f"in {duration(self.seconds)}."
        )
        if self.is_same:
            return f"Identical, byte for byte: weights, training state, logged losses, samples and curves. ({done})"
        lines = "\n  ".join(self.found)
        return f"Different:\n  {lines}\n({done}) {WHY}"


def differences(one: Path, other: Path) -> list[str]:
    """What differs between the last checkpoints, the logs and the samples of two runs' folders, in short lines."""
    found = [*_checkpoints(one, other), *_logs(one, other), *_samples(one, other), *_curves(one, other)]
    more = len(found) - MAX_SHOWN
    return [*found[:MAX_SHOWN], f"and {more} more"] if more > 0 else found


def last_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoint of the highest step, and its average if there is one."""
    folders = [folder for folder in (run_dir / CKPTS).glob("[!.]*") if folder.is_dir()]
    last = max(map(_step, folders), default=0)
    return sorted(folder for folder in folders if _step(folder) == last)


def differing_files(one: Path, other: Path) -> list[str]:
    """Names of the files below two folders that differ or exist in one of them only; times are ignored."""
    names = set()
    for root in (one, other):
        names |= {path.relative_to(root).as_posix() for path in root.rglob("[!.]*") if path.is_file()}
    return [name for name in sorted(names) if not _is_same(one / name, other / name)]


def _checkpoints(one: Path, other: Path) -> Iterator[str]:
    here = {folder.name: folder for folder in last_checkpoints(one)}
    there = {folder.name: folder for folder in last_checkpoints(other)}
    if here.keys() != there.keys() or not here:
        yield f"the last checkpoints: {', '.join(here) or 'none'}; {', '.join(there) or 'none'}"
        return
    for name, folder in here.items():
        for file in differing_files(folder, there[name]):
            yield f"{name}/{file}"


def _logs(one: Path, other: Path) -> Iterator[str]:
    here, there = list(_logged(one)), list(_logged(other))
    for name, lines in (("first", here), ("second", there)):
        if len(dict(lines)) != len(lines):
            yield f"{EVENTS_NAME}: the {name} run has a line twice"
    for kind, step in _differing(dict(here), dict(there)):
        yield f"{EVENTS_NAME}: {kind} of step {step}"


def _logged(run_dir: Path) -> Iterator[tuple[tuple[str, int], object]]:
    """Every logged number except times, and the paths of the samples, by kind and step."""
    for entry in _lines(run_dir / EVENTS_NAME):
        kind, step = str(entry["event"]), int(entry["step"])
        if kind in ("MetricsLogged", "ValidationDone"):
            values = entry["values"]
            yield (kind, step), {tag: values[tag] for tag in values if not tag.startswith(PERFORMANCE)}
        elif kind == "EpochEnded":
            yield (kind, step), entry["loss"]
        elif kind == "SamplesMade":
            yield (kind, step), [sample["path"] for sample in entry["samples"]]


def _samples(one: Path, other: Path) -> Iterator[str]:
    if _lines(one / SAMPLES_LIST) != _lines(other / SAMPLES_LIST):
        yield SAMPLES_LIST
    for name in differing_files(one / SAMPLES_DIR, other / SAMPLES_DIR):
        if name != SHEET_NAME:
            yield f"{SAMPLES_DIR}/{name}"


def _curves(one: Path, other: Path) -> Iterator[str]:
    for tag in _differing(_points(one), _points(other)):
        yield f"TensorBoard's curve {tag}"


def _points(run_dir: Path) -> Mapping[str, list[tuple[int, object]]]:
    """The points of each curve, and the images, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes a second to import

    accumulator = EventAccumulator(str(run_dir), size_guidance={"scalars": 0, "images": 0})
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns about every resumed run
    accumulator.Reload()
    points: dict[str, list[tuple[int, object]]] = {}
    for tag in accumulator.Tags()["scalars"]:
        if not tag.startswith(PERFORMANCE):
            points[tag] = [(event.step, event.value) for event in accumulator.Scalars(tag)]
    for tag in accumulator.Tags()["images"]:
        points[tag] = [(event.step, event.encoded_image_string) for event in accumulator.Images(tag)]
    return points


def _differing(here: Mapping[Any, object], there: Mapping[Any, object]) -> list[Any]:
    """The sorted keys whose values differ."""
    return [key for key in sorted(here.keys() | there.keys()) if here.get(key) != there.get(key)]


def _step(checkpoint: Path) -> int:
    digits = checkpoint.name.removesuffix(EMA_SUFFIX).rpartition("-gs")[2]
    return int(digits) if digits.isdigit() else -1


def _is_same(one: Path, other: Path) -> bool:
    if not one.is_file() or not other.is_file():
        return False
    if one.name == MANIFEST:  # it lists the hashes of files that are compared themselves
        return True
    here, there = one.read_bytes(), other.read_bytes()
    return here == there or (one.suffix == ".json" and _timeless(here) == _timeless(there))


def _timeless(content: bytes) -> object:
    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if key not in TIMES_AND_PLACES}
        return [clean(item) for item in value] if isinstance(value, list) else value

    try:
        return clean(parse_json(content))
    except ValueError:
        return content


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file without torn lines; none where there is no file."""
    if not path.is_file():
        return []
    return list(objects_in(lines_of(path)))
