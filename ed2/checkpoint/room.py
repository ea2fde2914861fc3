"""Room for a save: on the disk, and in the memory of the computer."""

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from ed2.disk import plain_reason
from ed2.errors import CheckpointError

DISK_MARGIN = 1.1
"""Free space that a save asks for, as a multiple of what it writes."""
MEMORY_MARGIN = 1.3
"""Free memory that a copy asks for, as a multiple of its size."""
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
"""Where a container says how much memory it may take and takes: of the second and the first version."""


@dataclass(frozen=True)
class Shortage:
    """A disk that has less room than is wanted, in bytes."""

    folder: Path
    wanted: int
    free: int


def shortage(wanted: Mapping[Path, int]) -> Shortage | None:
    """The first disk without room for what is wanted in its folders, and a tenth more; None where all have it.

    Raises:
        OSError: a disk does not answer.
    """
    by_device: dict[int, Shortage] = {}
    for folder, num_bytes in wanted.items():
        there = existing(folder)
        device = there.stat().st_dev
        before = by_device.get(device) or Shortage(there, 0, shutil.disk_usage(there).free)
        by_device[device] = replace(before, wanted=before.wanted + num_bytes)
    return next((s for s in by_device.values() if s.free < DISK_MARGIN * s.wanted), None)


def require_space(name: str, wanted: Mapping[Path, int]) -> None:
    """See that the disks have room for checkpoint `name`, which writes so many bytes into each folder.

    Raises:
        CheckpointError: tells how much it takes and how much is free.
    """
    try:
        short = shortage(wanted)
    except OSError as error:
        raise CheckpointError(f"The checkpoint {name} was left out", f"{plain_reason(error)}.") from error
    if short:
        why = f"it takes {short.wanted / 1e9:.2f} GB, and {short.free / 1e9:.2f} GB are free in {short.folder}."
        raise CheckpointError(f"The checkpoint {name} was left out", why, "Free some space.")


def has_memory_for(num_bytes: int) -> bool:
    """Whether a copy of so many bytes leaves the computer enough memory for everything else."""
    return free_memory_bytes() > MEMORY_MARGIN * num_bytes


def free_memory_bytes() -> int:
    """Memory that can be had without swapping; in a container no more than it may take."""
    free = int(psutil.virtual_memory().available)
    for limit, used, stat in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: there is no limit
            taken = int(Path(used).read_text()) - _reclaimable(Path(stat))
            free = min(free, int(Path(limit).read_text()) - taken)
    return max(0, free)


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _reclaimable(stat: Path) -> int:
    """Bytes of files that a container's system keeps in memory and gives up when asked for."""
    fields = dict(line.split() for line in stat.read_text().splitlines())
    return int(fields.get("inactive_file", fields.get("total_inactive_file", 0)))
