"""The processes of a run that has several: what rank 0 and the others say, and when they add up.

Imported only where there are several.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from ed2.errors import RankError, RunLeft, UpdateFailedError
from ed2.ranks.base import Answering, Message, RankAnswer, Ranks
from ed2.ranks.place import RankPlace
from ed2.ranks.sums import Store, Sums, open_store
from ed2.ranks.wire import Invitation, Lifelines, MainWire, RankWire, Reception, lost_error
from ed2.tensor_bytes import bytes_in

logger = logging.getLogger(__name__)

INVITATION = "everydream/invitation"
FAILED = "failed"
"""Entry of a message or an answer: why a process could not do something."""
UPDATE, LOST, OTHER = "update", "lost", "other"
"""What has failed in another process: an update of the weights, contact with a process, or anything else."""
_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool)
_NAMES = {dtype: str(dtype) for dtype in _TYPES}
ASK_SECONDS = 0.5
"""How often to ask whether to give up, while others work."""
NEWS_SECONDS = 5.0
"""How long to wait for news of who has ended, after an error that must come from that."""
ABANDONED_SECONDS = 15.0
"""How long another process may take to end by itself after rank 0 has ended."""


class Member(Ranks):
    """What rank 0 and the others have in common: their place, and sums over all of them."""

    def __init__(self, place: RankPlace, lifelines: Lifelines, store: Store) -> None:
        self.rank, self.size = place.rank, place.size
        self.local_rank, self.local_size = place.local_rank, place.local_size
        self._place, self._lifelines, self._store = place, lifelines, store
        self._sums: Sums | None = None

    @property
    def is_whole(self) -> bool:
        """Whether no process has been lost, as far as this one knows."""
        return not self._lifelines.lost

    @property
    def is_staged(self) -> bool:
        """Whether sums of what is on a GPU are computed in main memory."""
        return self._sums is not None and self._sums.is_staged

    def prepare(self, device: torch.device) -> None:
        """Make sums on `device` possible. Raises RankError."""
        if self._sums is None:
            with self._naming_the_lost():
                self._sums = Sums(self._store, self._place, device)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sum over all processes. Raises RankError."""
        with self._collective() as sums:
            sums.add_up(tensors)

    def add_up_for(self, tensors: Mapping[int, Sequence[Tensor]]) -> None:
        """Sum over all processes, each tensor for one of them. Raises RankError."""
        with self._collective() as sums:
            sums.add_up_for(tensors)

    def hand_out(self, tensors: Mapping[int, Sequence[Tensor]]) -> None:
        """Give all processes the tensors of each. Raises RankError."""
        with self._collective() as sums:
            sums.hand_out(tensors)

    @contextmanager
    def _collective(self) -> Iterator[Sums]:
        assert self._sums is not None
        with self._naming_the_lost():
            yield self._sums
        if not self.is_whole:  # it was abandoned
            raise lost_error(self._lifelines.first_lost(0.0))

    @contextmanager
    def _naming_the_lost(self) -> Iterator[None]:
        """Turn the error of a collective into one that says which process was lost, if one was."""
        try:
            yield
        except RuntimeError as error:
            lost = self._lifelines.first_lost(NEWS_SECONDS)
            raise lost_error(lost) from error

    def _abandon(self) -> None:
        if self._sums is not None:
            self._sums.abandon()

    def _close_sums(self) -> None:
        if self._sums is not None and self.is_whole:
            self._sums.close()


class Leader(Member):
    """Rank 0 of several processes.

    Attributes:
        on_notice: called with each notice of another process, while rank 0 waits for a message of it.
    """

    def __init__(self, place: RankPlace, wire: MainWire, store: Store) -> None:
        super().__init__(place, wire.lifelines, store)
        self._wire, self._run = wire, 0
        self._asked, self._early = 0, dict[int, list[Message]]()
        self.on_notice: Callable[[Message], object] = lambda message: None
        wire.lifelines.on_loss = lambda rank: self._abandon()

    def exchange(self, what: str, own: Message) -> list[Message]:
        """Wait for what the others say, and send it to all. Raises RankError."""
        said: dict[int, Message] = {0: own}
        while len(said) < self.size:
            rank, message = self._next_of([rank for rank in range(1, self.size) if rank not in said])
            if FAILED in message:
                raise self._failure(rank, message)
            if message["what"] != what:
                raise RankError(f"Process {rank} is out of step", f"it is at {message['what']}, the others at {what}.")
            said[rank] = message["values"]
        everything = [said[rank] for rank in range(self.size)]
        self._wire.send_all({"re": what, "all": everything})
        return everything

    def ask(self, what: str, request: Message) -> None:
        """Ask the others to do something. Raises RankError."""
        self._asked += 1
        self._wire.send_all({"ask": what, "number": self._asked, "request": request})

    def answers(self, give_up: Callable[[], bool] = lambda: False) -> list[RankAnswer]:
        """Wait for the answers of the others; what they say besides that is kept. Raises RankError."""
        answers: dict[int, RankAnswer] = {}
        while len(answers) < self.size - 1:
            missing = [rank for rank in range(1, self.size) if rank not in answers]
            while not self._wire.has_message(missing, ASK_SECONDS):
                if give_up():
                    return []
            rank, message, tensors = self._receive(missing)
            if "answer" not in message:
                self._early.setdefault(rank, []).append(message)
            elif message["answer"] == self._asked:
                answers[rank] = RankAnswer(message["values"], tensors)
        for rank, answer in answers.items():
            if FAILED in answer.values:
                raise RankError(f"Process {rank} failed", answer.values[FAILED])
        return [answers[rank] for rank in sorted(answers)]

    def _next_of(self, ranks: list[int]) -> tuple[int, Message]:
        """The next message of any of these ranks that belongs to the exchanges of this run."""
        while True:
            early = next((rank for rank in ranks if self._early.get(rank)), None)
            if early is not None:
                return early, self._early[early].pop(0)
            rank, message, _ = self._receive(ranks)
            if "answer" not in message:  # to what rank 0 no longer waits for
                return rank, message

    def _receive(self, ranks: list[int]) -> tuple[int, Message, list[Tensor]]:
        """The next message of any of these ranks that belongs to this run, with the tensors that follow it."""
        while True:
            rank, message = self._wire.receive(ranks)
            tensors = [_tensor(about, self._wire.receive_bytes(rank)) for about in message.get("tensors", ())]
            if "notice" in message:
                self.on_notice(message["notice"])
            elif message["run"] == self._run:  # else said before it knew that rank 0 had left that run
                return rank, message, tensors

    def _failure(self, rank: int, message: Message) -> Exception:
        if message["kind"] == LOST:
            return lost_error(self._lifelines.first_lost(NEWS_SECONDS))
        if message["kind"] == UPDATE:
            return UpdateFailedError(f"Process {rank} failed", message[FAILED])
        return RankError(f"Process {rank} failed", message[FAILED])

    @contextmanager
    def leading(self, describe: Callable[[], Message]) -> Iterator[None]:
        """Have the others begin a run, and leave it with the block, however that ends. Raises RankError."""
        self._run += 1
        self._early.clear()
        self._wire.send_all({"order": "begin", "run": self._run, "spec": describe()})
        try:
            yield
        finally:
            with suppress(RankError):
                self._wire.send_all({"order": "leave"})

    def close(self) -> None:
        """Let the others end."""
        with suppress(RankError):
            self._wire.send_all({"order": "end"})
        self._lifelines.close()
        self._close_sums()
        self._wire.close()


class Follower(Member):
    """Any other process: it does what rank 0 does.

    Attributes:
        on_ask: does what rank 0 asks for, while this process waits for rank 0.
    """

    def __init__(self, place: RankPlace, wire: RankWire, store: Store) -> None:
        super().__init__(place, wire.lifelines, store)
        self._wire, self._run = wire, 0
        self.on_ask: Answering = _unable
        wire.lifelines.on_loss = lambda rank: self._end_soon()

    def exchange(self, what: str, own: Message) -> list[Message]:
        """Say something, and wait for what all say. Raises RankError, RunLeft."""
        self._wire.send({"run": self._run, "what": what, "values": own})
        while True:
            reply = self._wire.receive()
            if reply.get("re") == what:
                return list(reply["all"])
            self._handle(reply)

    def next_run(self) -> Message | None:
        """Wait for the next run of rank 0; None when there will be none. Raises RankError."""
        self.on_ask = _unable
        while True:
            order = self._wire.receive()
            if order.get("order") == "end":
                return None
            if order.get("order") == "begin":
                self._run = order["run"]
                return order["spec"]

    def notify(self, notice: Message) -> None:
        """Tell rank 0 something that it does not wait for, from any thread. Raises RankError."""
        self._wire.send({"notice": notice})

    def raise_if_left(self) -> None:
        """Return at once, unless rank 0 has left the run. Raises RunLeft, RankError."""
        while self.has_message():
            self._handle(self._wire.receive())

    def wait_until_left(self) -> None:
        """Wait until rank 0 leaves the run. Raises RankError."""
        with suppress(RunLeft):
            while True:
                self._handle(self._wire.receive())

    def has_message(self) -> bool:
        """Whether rank 0 has sent something new, and so waits for no answer to what it asked before."""
        return self._wire.has_message()

    def _handle(self, message: Message) -> None:
        if message.get("order") == "leave":
            raise RunLeft
        if "ask" not in message:
            return
        try:
            answer = self.on_ask(message["ask"], message["request"])
        except Exception as error:  # sent as an answer, since rank 0 waits for one
            logger.error("Process %d could not answer.", self.rank, exc_info=error)
            answer = RankAnswer({FAILED: str(error) or type(error).__name__})
        own = {"run": self._run, "answer": message["number"], "values": answer.values}
        self._wire.send({**own, "tensors": list(map(_about, answer.tensors))}, map(_bytes_of, answer.tensors))

    def fail(self, error: Exception) -> None:
        """Tell rank 0 why this process cannot continue, and wait until it leaves the run. Raises RankError."""
        kind = OTHER
        if isinstance(error, UpdateFailedError):
            kind = UPDATE
        elif isinstance(error, RankError):
            kind = LOST
        self._wire.send({"run": self._run, FAILED: str(error) or type(error).__name__, "kind": kind})
        self.wait_until_left()

    def _end_soon(self) -> None:
        """End this process, which may wait for rank 0 in a way that nothing interrupts, unless it ends itself."""
        time.sleep(ABANDONED_SECONDS)
        if not self._lifelines.is_closed:
            os._exit(1)

    def close(self) -> None:
        """Leave."""
        self._lifelines.close()
        self._close_sums()
        self._wire.close()


def _about(tensor: Tensor) -> list[Any]:
    """Type and shape of a tensor, for JSON."""
    return [_NAMES[tensor.dtype], *tensor.shape]


def _bytes_of(tensor: Tensor) -> memoryview:
    return bytes_in(tensor.cpu()).numpy().data


def _tensor(about: Sequence[Any], content: bytes) -> Tensor:
    """A tensor from what was said about it, and its bytes."""
    name, *shape = about
    dtype = next(dtype for dtype, known in _NAMES.items() if known == name)
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)


def _unable(what: str, request: Message) -> RankAnswer:
    raise AssertionError(f"asked for {what} while nothing is trained")


def join(place: RankPlace) -> Leader | Follower:
    """Connect with the other processes of the run.

    Raises:
        RankError: some cannot be reached.
    """
    try:
        store = open_store()
        if place.rank:
            invitation = Invitation.from_bytes(store.get(INVITATION))
            return Follower(place, RankWire.join(invitation, place.rank), store)
        reception = Reception(place.address)
        store.set(INVITATION, reception.invitation.as_bytes().decode())
        return Leader(place, reception.gather(place.size), store)
    except RuntimeError as error:  # of the store
        raise RankError("The processes of this run cannot reach each other", f"{error}.") from error
