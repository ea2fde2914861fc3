"""Space for a save: on the disk, and in main memory."""

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from ed2.disk_errors import plain_reason
from ed2.errors import CheckpointError
from ed2.text import file_size

DISK_MARGIN = 1.1
"""Free disk space that a save needs, as a multiple of what it writes."""
MEMORY_MARGIN = 1.3
"""Free memory that a copy needs, as a multiple of its size."""
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
"""Files with a container's memory limit and use, in cgroup versions 2 and 1."""


@dataclass(frozen=True)
class Shortage:
    """A disk with less free space than is required, in bytes."""

    folder: Path
    required: int
    free: int


def shortage(required: Mapping[Path, int]) -> Shortage | None:
    """The first disk without space for what its folders require, and a tenth more; None if all have it.

    Raises:
        OSError: a disk does not answer.
    """
    by_device: dict[int, Shortage] = {}
    for folder, num_bytes in required.items():
        there = existing(folder)
        device = there.stat().st_dev
        before = by_device.get(device) or Shortage(there, 0, shutil.disk_usage(there).free)
        by_device[device] = replace(before, required=before.required + num_bytes)
    return next((s for s in by_device.values() if s.free < DISK_MARGIN * s.required), None)


def require_space(name: str, required: Mapping[Path, int]) -> None:
    """Raise an error unless the disks have space for checkpoint `name`, which writes this many bytes into each folder.

    Raises:
        CheckpointError: says how much space it needs and how much is free.
    """
    try:
        short = shortage(required)
    except OSError as error:
        raise CheckpointError(f"The checkpoint {name} was not saved", f"{plain_reason(error)}.") from error
    if short:
        why = f"it needs {file_size(short.required)}, but only {file_size(short.free)} is free in {short.folder}."
        raise CheckpointError(f"The checkpoint {name} was not saved", why, "Free some space.")


def has_memory_for(num_bytes: int) -> bool:
    """Whether a copy of this many bytes leaves the computer enough memory for everything else."""
    return free_memory_bytes() > MEMORY_MARGIN * num_bytes


def free_memory_bytes() -> int:
    """Memory available without swapping, within the limit of the container, if any."""
    free = int(psutil.virtual_memory().available)
    for limit, used, stat in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max", which is not a number, means no limit
            taken = int(Path(used).read_text()) - _reclaimable(Path(stat))
            free = min(free, int(Path(limit).read_text()) - taken)
    return max(0, free)


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _reclaimable(stat: Path) -> int:
    """Bytes of cached files, which the system gives up when memory is needed."""
    fields = dict(line.split() for line in stat.read_text().splitlines())
    return int(fields.get("inactive_file", fields.get("total_inactive_file", 0)))
