"""Sums of tensors over all processes of a run, by torch.distributed.

Imported only where there are several processes, since torch.distributed takes time and memory.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from ed2.ranks.base import SUM_NUMBERS
from ed2.ranks.place import RankPlace

Store = Any
"""What torch.distributed calls so: values by name, for all processes. It is not typed."""

STORE_SECONDS = 300.0
"""How long to look for the store: torchrun has opened it before it starts any process."""


def open_store() -> Store:
    """The store that all processes share, at the address in the environment."""
    store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=STORE_SECONDS))))
    return store


class Sums:
    """Sums of tensors over all processes, in the memory of one buffer.

    On an NVIDIA GPU NCCL adds up. Windows has no NCCL: gloo adds up there in main memory, which is slow.

    Attributes:
        is_staged: whether what is on a GPU is added up in main memory.
    """

    def __init__(self, store: Store, place: RankPlace, device: torch.device) -> None:
        """Connect all processes with each other; waits until all have called it."""
        self._device = device
        self.is_staged = device.type == "cuda" and not dist.is_nccl_available()
        if place.address.startswith("127.") and sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nothing listens on the network, or needs one
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" and not self.is_staged else "gloo"
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size)
        self._buffer = torch.empty(SUM_NUMBERS, dtype=torch.float32, device=device)

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum, computed in fp32 in the order given; returns when that is done."""
        for portion in _portions(tensors, SUM_NUMBERS):
            self._add_up(portion, None)
        self._wait()

    @torch.no_grad()
    def add_up_for(self, tensors: Mapping[int, Sequence[Tensor]]) -> None:
        """Replace the tensors of each process by their sums in that process alone; returns when that is done."""
        for owner in sorted(tensors):
            for portion in _portions(tensors[owner], SUM_NUMBERS):
                self._add_up(portion, owner)
        self._wait()

    @torch.no_grad()
    def hand_out(self, tensors: Mapping[int, Sequence[Tensor]]) -> None:
        """Give all processes the bytes of these tensors of each process; returns when that is done."""
        for owner in sorted(tensors):
            for portion in _portions(tensors[owner], SUM_NUMBERS):
                self._hand_out(portion, owner)
        self._wait()

    def _hand_out(self, tensors: Sequence[Tensor], owner: int) -> None:
        buffer, places = self._room_for(tensors, tensors[0].dtype)
        is_own = dist.get_rank() == owner
        if is_own:
            _copy(tensors, places)
        if self.is_staged:
            staged = buffer.cpu()
            dist.broadcast(staged, owner)
            buffer.copy_(staged)
        else:
            dist.broadcast(buffer, owner)
        if not is_own:
            _copy(places, tensors)

    def _add_up(self, tensors: Sequence[Tensor], owner: int | None) -> None:
        """Sum for one process, or for all."""
        buffer, places = self._room_for(tensors, torch.float32)
        _copy(tensors, places)
        summed = buffer.cpu() if self.is_staged else buffer
        if owner is None:
            dist.all_reduce(summed)
        else:
            dist.reduce(summed, owner)
        if owner not in (None, dist.get_rank()):
            return
        if self.is_staged:
            buffer.copy_(summed)
        _copy(places, tensors)

    def _room_for(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        """As much of the buffer as these tensors need, one after the other, and the place of each in its shape."""
        sizes = [tensor.numel() for tensor in tensors]
        buffer = self._buffer.view(dtype)[: sum(sizes)]
        if sum(sizes) > SUM_NUMBERS:  # a single large one
            buffer = torch.empty(sum(sizes), dtype=dtype, device=self._device)
        pieces = buffer.split(sizes)
        return buffer, [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def abandon(self) -> None:
        """End a sum that waits for a process that is gone; it then holds anything. Called from another thread."""
        if self._device.type == "cuda" and not self.is_staged:  # gloo notices by itself
            with suppress(Exception):
                dist.distributed_c10d._abort_process_group()

    def close(self) -> None:
        """Leave the group; all processes do so at about the same time."""
        with suppress(Exception):
            dist.destroy_process_group()


def _copy(given: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for tensor, target in zip(given, targets, strict=True):
        target.copy_(tensor)


def _portions(tensors: Sequence[Tensor], limit: int) -> Iterator[list[Tensor]]:
    """The tensors, as many at a time as are of one type and have at most `limit` numbers together."""
    portion: list[Tensor] = []
    numbers = 0
    for tensor in tensors:
        if portion and (numbers + tensor.numel() > limit or tensor.dtype != portion[0].dtype):
            yield portion
            portion, numbers = [], 0
        portion.append(tensor)
        numbers += tensor.numel()
    if portion:
        yield portion
