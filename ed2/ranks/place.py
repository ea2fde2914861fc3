"""The place of this process among those of a run, from the environment. Needs no torch.

torchrun, accelerate and `ed2.app.ranks.launcher` set the same variables.
Source: PyTorch, "torchrun (Elastic Launch)", environment variables.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ed2.errors import Problem, SettingsError, printable
from ed2.text import plural

RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
MASTER_ADDR, MASTER_PORT = "MASTER_ADDR", "MASTER_PORT"
MAX_PROCESSES = 64
MAX_PORT = 65535


@dataclass(frozen=True)
class RankPlace:
    """Which of a run's processes this is.

    Attributes:
        rank: its number among all, from 0.
        size: how many there are.
        local_rank: its number among those on this machine.
        local_size: how many there are on this machine.
        address: of the machine of rank 0.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = "127.0.0.1"

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the environment; without its variables the run has this one process.

        Raises:
            SettingsError: the variables contradict each other, or one is missing.
        """
        size = _number(environment, WORLD_SIZE, 1, 1, MAX_PROCESSES)
        if size == 1:
            return cls()
        rank = _number(environment, RANK, None, 0, size - 1)
        local_size = _number(environment, LOCAL_WORLD_SIZE, size, 1, size)
        local_rank = _number(environment, LOCAL_RANK, rank, 0, local_size - 1)
        address = environment.get(MASTER_ADDR, "")
        if not address:
            raise _wrong(MASTER_ADDR, "the address of the first process is missing")
        _number(environment, MASTER_PORT, None, 1, MAX_PORT)
        return cls(rank, size, local_rank, local_size, address)

    def require_size(self, given: object) -> None:
        """Raise SettingsError if a number of processes is given on the command line and others were started."""
        if given in (None, self.size):
            return
        what = f"it is {given}, but {self.size} {plural(self.size, 'process was', 'processes were')} started."
        fix = "Leave it out: whatever starts the processes, such as torchrun, says how many."
        raise SettingsError("The run cannot start:", [Problem("num_processes", what, fix)])


def _number(environment: Mapping[str, str], name: str, default: int | None, low: int, high: int) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal() or not low <= int(text) <= high:
        said = "it is missing" if text is None else f"it is {printable(text)}"
        raise _wrong(name, f"{said}, not a number from {low} to {high}")
    return int(text)


def _wrong(name: str, what: str) -> SettingsError:
    fix = "Start the run with torchrun, accelerate or --num_processes, which set it."
    return SettingsError("The processes of this run do not know each other:", [Problem(name, f"{what}.", fix)])
