"""What a checkpoint's files are named and which of several is the newest. Without torch, for the page and checks."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ed2.small_files import read_object

MANIFEST = "manifest.json"
TRAINING_STATE = "training_state"
STATE_FILE = "state.json"
EMA_SUFFIX = "_ema"
"""Ends the name of a checkpoint of averaged weights."""
_STEP_IN_NAME = re.compile(r"-gs(\d+)")


def average_of(checkpoint: Path) -> Path:
    """Where the average of a checkpoint lies, if there is one."""
    return checkpoint.with_name(f"{checkpoint.name}{EMA_SUFFIX}")


def oldest_first(checkpoints: Iterable[Path]) -> list[Path]:
    """Checkpoints in the order in which they were made.

    Those of one run by their step, whatever the clock said, since clocks are set back; the runs, each by its last one,
    by the clock, since nothing else compares them.
    """
    runs: dict[Path, list[tuple[int, str, Path]]] = {}
    for path in checkpoints:
        runs.setdefault(path.parent, []).append((*age(path), path))
    in_order = sorted((sorted(own) for own in runs.values()), key=lambda own: own[-1][1])
    return [path for own in in_order for _, _, path in own]


def age(checkpoint: Path) -> tuple[int, str]:
    """A checkpoint's step, and when it was saved: the later of what its manifest and its training state say.

    One that lost both, or had them before they were of this kind, is as old as its folder.
    """
    said = list(_said(checkpoint))
    if said:
        return max(said)
    step = _STEP_IN_NAME.search(checkpoint.name)
    return int(step[1]) if step else 0, _changed_at(checkpoint)


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint's manifest says; empty where it has none, as those of older versions of this program.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    path = checkpoint / MANIFEST
    if not path.exists():
        return {}
    return read_object(path)


def _said(checkpoint: Path) -> Iterator[tuple[int, str]]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        yield _moment(read_manifest(checkpoint))
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        values = read_object(checkpoint / TRAINING_STATE / STATE_FILE)
        yield _moment({**values, **values["state"]})


def _moment(values: Mapping[str, Any]) -> tuple[int, str]:
    return int(values["step"]), str(values["saved_at"])


def _changed_at(path: Path) -> str:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
    except OSError:  # another program has just removed it
        return ""
