"""Which run a checkpoint is of, and what it keeps of that run. Without torch, for the page and checks."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ed2.checkpoint.order import MANIFEST, STATE_FILE, TRAINING_STATE, read_manifest
from ed2.small_files import read_json, read_object

CKPTS = "ckpts"
IMAGES_FILE = "pictures.json"
"""The names of a run's images: in its folder, and in the training state of each checkpoint."""
RUN_FILES = ("settings.json", "events.jsonl", IMAGES_FILE)
"""What tells the folder of a run: at least one of these is there."""
NOT_UNDERSTOOD = (OSError, ValueError, KeyError, TypeError)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run of ours, damaged or not."""
    return (folder / CKPTS).is_dir() and any((folder / name).is_file() for name in RUN_FILES)


def run_at(path: Path) -> Path | None:
    """The folder of the run that a path stands for: itself, or the one that these checkpoints lie in; else None."""
    folder = path.parent if path.name == CKPTS else path
    return folder if is_run(folder) else None


def is_ours(checkpoint: Path) -> bool:
    """Whether a checkpoint is surely of this program, sound or not: it lies in a run of ours, or says so itself.

    One that says nothing since it cannot be read just now counts as ours.
    """
    if is_run(checkpoint.parent.parent):
        return True
    state = checkpoint / TRAINING_STATE / STATE_FILE
    return _says(checkpoint / MANIFEST, "files") or _says(state, "state")


def _says(file: Path, what: str) -> bool:
    """Whether a file of JSON has what those have that this program writes into a checkpoint."""
    try:
        return {"format", "saved_at", what} <= read_object(file).keys()
    except OSError as error:
        return not isinstance(error, FileNotFoundError | NotADirectoryError)
    except ValueError:
        return False


def name_of_run(run_dir: Path) -> str:
    """What a run was called when it began: its folder may have another name by now."""
    with contextlib.suppress(*NOT_UNDERSTOOD):
        name = read_manifest(run_dir)["run"]
        if isinstance(name, str):
            return name
    return run_dir.name


def lies_in_its_run(checkpoint: Path, values: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is where it was written, in `ckpts` of its run's folder, whatever that is called by now.

    Args:
        checkpoint: its folder.
        values: what its training state says.
    """
    run_dir = checkpoint.parent.parent
    return checkpoint.parent.name == CKPTS and values.get("run") in (run_dir.name, name_of_run(run_dir))


def state_of(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint's training state says; empty where it has none that can be understood."""
    with contextlib.suppress(*NOT_UNDERSTOOD):
        return read_object(checkpoint / TRAINING_STATE / STATE_FILE)
    return {}


def images_of(checkpoint: Path, values: Mapping[str, Any]) -> set[str]:
    """The names of the images that a checkpoint was trained on; empty where nobody knows them any more."""
    places = [checkpoint / TRAINING_STATE]
    if lies_in_its_run(checkpoint, values):  # one from before checkpoints held them
        places.append(checkpoint.parent.parent)
    return next(filter(None, map(_names_in, places)), set())


def _names_in(folder: Path) -> set[str]:
    with contextlib.suppress(*NOT_UNDERSTOOD):
        return set(read_json(folder / IMAGES_FILE))
    return set()
