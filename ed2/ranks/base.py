"""What the processes of a run do together, and its null object for a run in one process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SUM_NUMBERS = 1 << 24
"""How many numbers are summed at once: 64 MB. A larger tensor is summed by itself."""
Message = Mapping[str, Any]
"""What a process tells the others: values for JSON, so that nothing received can run code."""


@dataclass(frozen=True)
class RankAnswer:
    """What a process answers to a request of rank 0: values for JSON, and tensors, which arrive in main memory."""

    values: Message
    tensors: Sequence[Tensor] = ()


Answering = Callable[[str, Message], RankAnswer]
"""Does what rank 0 asks for, given its name and the request."""


class Ranks:
    """The processes of a run. Rank 0 decides, saves, samples and reports; the others train as it does.

    This class is the null object of a run in one process. `ed2.ranks.group` has those of several.

    Attributes:
        rank: the number of this process, from 0.
        size: how many there are.
        local_rank: the number of this process among those on this machine.
        local_size: how many there are on this machine.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    @property
    def is_whole(self) -> bool:
        """Whether no process has been lost."""
        return True

    @property
    def is_staged(self) -> bool:
        """Whether sums of what is on a GPU are computed in main memory."""
        return False

    def prepare(self, device: torch.device) -> None:
        """Make sums on `device` possible. Raises RankError."""

    def exchange(self, what: str, own: Message) -> list[Message]:
        """Send `own` to all processes under the name `what`, and return what each has sent, by rank.

        Raises:
            RankError: another process has failed, or was lost.
            RunLeft: rank 0 has left the run, in every other process.
        """
        return [own]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, which gives every process the same bytes.

        Raises:
            RankError: another process was lost; the tensors hold anything.
        """

    def add_up_for(self, tensors: Mapping[int, Sequence[Tensor]]) -> None:
        """Replace the tensors of each rank by their sums over all, in that process; elsewhere they hold anything.

        Raises:
            RankError: another process was lost; all hold anything.
        """

    def hand_out(self, tensors: Mapping[int, Sequence[Tensor]]) -> None:
        """Give all processes the bytes of the tensors of each rank, in place of their own.

        Raises:
            RankError: another process was lost; the tensors hold anything.
        """

    def ask(self, what: str, request: Message) -> None:
        """Ask the others to do something, which they do as soon as they wait for rank 0. Only for rank 0.

        Raises RankError.
        """

    def answers(self, give_up: Callable[[], bool] = lambda: False) -> list[RankAnswer]:
        """Wait for what the others answer to the last `ask`, in the order of their ranks. Only for rank 0.

        Returns nothing once `give_up` is true; the others give up as soon as rank 0 sends anything else.

        Raises:
            RankError: one of them could not do it, or was lost.
        """
        return []

    @contextmanager
    def leading(self, describe: Callable[[], Message]) -> Iterator[None]:
        """Have the others begin the run that is described, and leave it with the block, however that ends.

        Only for rank 0. Raises RankError.
        """
        yield
