"""Facts about a checkpoint: its files, age, run, single file, validation, and whether it is pinned. Needs no torch."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from ed2.models.files.header import HeaderError, read_header
from ed2.small_files import exists, is_file, read_json, read_object

CKPTS = "ckpts"
MANIFEST = "manifest.json"
TRAINING_STATE = "training_state"
STATE_FILE = "state.json"
IMAGES_FILE = "pictures.json"
"""The names of a run's images: in its folder, and in the training state of each checkpoint."""
MODEL_FILES = ("model_index.json", "base.json")
"""Every checkpoint holds one of them: a model the first, a LoRA the second."""
KEEP_FILE = "KEEP"
"""A file of this name in a checkpoint's folder pins it; its content does not matter."""
EMA_SUFFIX = "_ema"
"""Suffix of the name of a checkpoint with averaged weights."""
RUN_FILES = ("settings.json", "events.jsonl", IMAGES_FILE)
"""A folder with at least one of these is a run's folder."""
INVALID = (OSError, ValueError, KeyError, TypeError)
"""Errors from reading a small file that is missing, damaged or foreign."""
_STEP_IN_NAME = re.compile(r"-gs(\d+)")

RUN_KEY = "run"
"""Metadata key in a single file for the run that wrote it."""
_NUMBERED = re.compile(r" \(\d+\)$")


def average_of(checkpoint: Path) -> Path:
    """The folder of a checkpoint's EMA, whether or not there is one."""
    return checkpoint.with_name(f"{checkpoint.name}{EMA_SUFFIX}")


def checkpoints_of(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, without the averages that belong to them."""
    return checkpoints_in(run_dir / CKPTS)


def checkpoints_in(ckpts: Path) -> list[Path]:
    """The same for a run's folder of checkpoints: models and LoRAs."""
    found: list[Path] = []
    for name in MODEL_FILES:
        found += [file.parent for file in ckpts.glob(f"[!.]*/{name}")]
    return oldest_first(checkpoint for checkpoint in found if not checkpoint.name.endswith(EMA_SUFFIX))


def oldest_first(checkpoints: Iterable[Path]) -> list[Path]:
    """Checkpoints in the order in which they were saved.

    Those of one run are sorted by step, whatever the clock said, since clocks are set back. The runs are sorted by the
    clock, each by its last checkpoint, since there is nothing else to compare them by.
    """
    runs: dict[Path, list[tuple[int, str, Path]]] = {}
    for path in checkpoints:
        runs.setdefault(path.parent, []).append((*age(path), path))
    in_order = sorted(map(sorted, runs.values()), key=lambda own: own[-1][1])
    return [path for _, _, path in chain(*in_order)]


def age(checkpoint: Path) -> tuple[int, str]:
    """A checkpoint's step, and when it was saved: the later of what its manifest and its training state say.

    Where neither can be read, the step comes from its name and the time from its folder.
    """
    known = list(_ages_in_files(checkpoint))
    if known:
        return max(known)
    step = _STEP_IN_NAME.search(checkpoint.name)
    return int(step[1]) if step else 0, _modified_at(checkpoint)


def _ages_in_files(checkpoint: Path) -> Iterator[tuple[int, str]]:
    with suppress(*INVALID):
        yield _step_and_time(read_manifest(checkpoint))
    with suppress(*INVALID):
        values = read_object(checkpoint / TRAINING_STATE / STATE_FILE)
        yield _step_and_time({**values, **values["state"]})


def _step_and_time(values: Mapping[str, Any]) -> tuple[int, str]:
    return int(values["step"]), str(values["saved_at"])


def _modified_at(path: Path) -> str:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
    except OSError:  # another program has just removed it
        return ""


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The content of a checkpoint's manifest; empty where there is none, as in checkpoints of old versions.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    path = checkpoint / MANIFEST
    if not path.exists():
        return {}
    return read_object(path)


def state_of(checkpoint: Path) -> dict[str, Any]:
    """The description of a checkpoint's training state; empty where it is missing or invalid."""
    with suppress(*INVALID):
        return read_object(checkpoint / TRAINING_STATE / STATE_FILE)
    return {}


def is_run(folder: Path) -> bool:
    """Whether a folder is a run of this program, damaged or not; false if no folder can have such a name."""
    return exists(folder / CKPTS) and any(is_file(folder / name) for name in RUN_FILES)


def run_at(path: Path) -> Path | None:
    """The folder of the run at `path`, which may also be its `ckpts`; None if it is neither."""
    folder = path.parent if path.name == CKPTS else path
    if not is_run(folder):
        return None
    return folder


def is_ours(checkpoint: Path) -> bool:
    """Whether a checkpoint was certainly written by this program: it is in one of its runs, or its files say so.

    One whose files cannot be read at the moment counts as ours.
    """
    if is_run(checkpoint.parent.parent):
        return True
    state = checkpoint / TRAINING_STATE / STATE_FILE
    return _is_written_by_us(checkpoint / MANIFEST, "files") or _is_written_by_us(state, "state")


def _is_written_by_us(file: Path, key: str) -> bool:
    try:
        return {"format", "saved_at", key} <= read_object(file).keys()
    except OSError as error:
        return not isinstance(error, FileNotFoundError | NotADirectoryError)
    except ValueError:
        return False


def name_of_run(run_dir: Path) -> str:
    """The name of a run when it started; its folder may have been renamed since."""
    with suppress(*INVALID):
        name = read_manifest(run_dir)["run"]
        if isinstance(name, str):
            return name
    return run_dir.name


def is_in_its_run(checkpoint: Path, values: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is still in `ckpts` of the run that wrote it, even if that folder was renamed.

    Args:
        checkpoint: its folder.
        values: the description of its training state.
    """
    run_dir = checkpoint.parent.parent
    return checkpoint.parent.name == CKPTS and values.get("run") in (run_dir.name, name_of_run(run_dir))


def images_of(checkpoint: Path, values: Mapping[str, Any]) -> set[str]:
    """The names of the images that a checkpoint was trained on; empty if they are no longer known."""
    places = [checkpoint / TRAINING_STATE]
    if is_in_its_run(checkpoint, values):  # old checkpoints do not hold the names themselves
        places.append(checkpoint.parent.parent)
    return next(filter(None, map(_image_names_in, places)), set())


def _image_names_in(folder: Path) -> set[str]:
    with suppress(*INVALID):
        return set(read_json(folder / IMAGES_FILE))
    return set()


def is_pinned(checkpoint: Path) -> bool:
    """Whether a checkpoint is kept whatever the settings say; a pin on its EMA keeps both."""
    return any((folder / KEEP_FILE).exists() for folder in (checkpoint, average_of(checkpoint)))


def pin(checkpoint: Path, is_wanted: bool) -> None:
    """Pin a checkpoint, or remove its pin. Raises OSError."""
    if is_wanted:
        (checkpoint / KEEP_FILE).touch()
    else:
        for folder in (checkpoint, average_of(checkpoint)):
            (folder / KEEP_FILE).unlink(missing_ok=True)


def find_single_file(folder: Path, run_name: str, name: str) -> Path | None:
    """The single file in `folder` that a run wrote for its checkpoint `name`, if it exists."""
    with suppress(OSError):
        for path in [*folder.glob("*.safetensors"), *folder.glob("*.ckpt")]:
            if checkpoint_name_of(path) == name and writer_of(path) in (run_name, None):
                return path
    return None


def checkpoint_name_of(single_file: Path) -> str:
    """The name of the checkpoint that a single file was made from, without the number that made its name unique."""
    return _NUMBERED.sub("", single_file.stem)


def writer_of(single_file: Path) -> str | None:
    """The run that wrote a single file; None if the file does not say."""
    if single_file.suffix != ".safetensors":
        return None
    try:
        return read_header(single_file).metadata.get(RUN_KEY)
    except (HeaderError, OSError):
        return None


def best_validated(checkpoints: Iterable[Path]) -> Path | None:
    """The checkpoint with the lowest validation loss, the earliest of equals; None if nothing was measured."""
    best, lowest = None, math.inf
    for checkpoint in checkpoints:
        loss = _validation_loss(checkpoint)
        if loss < lowest:
            best, lowest = checkpoint, loss
    return best


def _validation_loss(checkpoint: Path) -> float:
    """What its manifest says; infinite if nothing was measured."""
    try:
        measured = read_manifest(checkpoint).get("validation")
        return float(measured["loss"]) if measured else math.inf
    except INVALID:
        return math.inf
