"""Room for a save: on the disk, and in the memory of the computer."""

import contextlib
import shutil
from collections.abc import Mapping
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


def require_space(name: str, wanted: Mapping[Path, int]) -> None:
    """See that the disks have room for checkpoint `name`, which writes so many bytes into each folder.

    Raises:
        CheckpointError: tells how much it takes and how much is free.
    """
    by_device: dict[int, tuple[Path, int]] = {}
    try:
        for folder, num_bytes in wanted.items():
            there = existing(folder)
            device = there.stat().st_dev
            by_device[device] = there, num_bytes + by_device.get(device, (there, 0))[1]
        for there, num_bytes in by_device.values():
            free = shutil.disk_usage(there).free
            if free < DISK_MARGIN * num_bytes:
                why = f"it takes {num_bytes / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free in {there}."
                raise CheckpointError(f"The checkpoint {name} was left out", why, "Free some space.")
    except OSError as error:
        raise CheckpointError(f"The checkpoint {name} was left out", f"{plain_reason(error)}.") from error


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
