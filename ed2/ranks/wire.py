"""Messages between rank 0 and each other process, and prompt news of a process that has ended.

Each other process has two connections with rank 0: one carries messages, the other nothing. When a process ends,
however it does, the system closes both; the second one tells so even while the first is in the middle of something.
"""

import json
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge, wait
from queue import Empty, Queue

from ed2.errors import RankError
from ed2.ranks.base import Message

JOIN_SECONDS = 300.0
"""How long rank 0 waits for the others to connect; all of them have started by then."""
FAREWELL_SECONDS = 5.0
"""How long rank 0 waits for the others to read that they may end."""
KEEPALIVE_SECONDS = 10
"""Silence on a connection after which the system asks whether the other machine is still there."""
LOOPBACK = ("127.", "localhost", "::1")


@dataclass(frozen=True)
class Invitation:
    """Where rank 0 listens, and the key that proves that a connection comes from this run."""

    address: str
    port: int
    key: bytes

    def as_bytes(self) -> bytes:
        """For the store that all processes share."""
        return json.dumps([self.address, self.port, self.key.hex()]).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Invitation":
        """What rank 0 has stored."""
        address, port, key = json.loads(content)
        return cls(address, port, bytes.fromhex(key))


class Reception:
    """Rank 0 while the others connect."""

    def __init__(self, address: str) -> None:
        """Begin to listen; `address` is how other machines reach this one."""
        key = secrets.token_bytes(32)
        is_here = address.startswith(LOOPBACK)
        self._listener = Listener(("127.0.0.1" if is_here else "", 0), backlog=128)
        self._arrived: Queue[tuple[int, bool, Connection]] = Queue()
        self.invitation = Invitation(address, self._listener.address[1], key)

    def gather(self, size: int) -> "MainWire":
        """Wait until all others have connected.

        Raises:
            RankError: some have not, in time.
        """
        threading.Thread(target=self._accept, name="ranks", daemon=True).start()
        messages: dict[int, Connection] = {}
        lifelines: dict[int, Connection] = {}
        end = time.monotonic() + JOIN_SECONDS
        while len(messages) + len(lifelines) < 2 * (size - 1):
            try:
                rank, is_lifeline, connection = self._arrived.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                missing = sorted(set(range(1, size)) - messages.keys())
                raise RankError(f"Processes {missing} did not connect", "they may have failed to start.") from None
            (lifelines if is_lifeline else messages)[rank] = connection
        self._listener.close()
        return MainWire(messages, Lifelines(lifelines))

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection = self._listener.accept()
                threading.Thread(target=self._greet, args=(connection,), name="greeting", daemon=True).start()

    def _greet(self, connection: Connection) -> None:
        """Let a connection in that knows the key; in a thread of its own, since a stranger may say nothing."""
        try:
            deliver_challenge(connection, self.invitation.key)
            answer_challenge(connection, self.invitation.key)
            hello = json.loads(connection.recv_bytes(1024))
            self._arrived.put((int(hello["rank"]), bool(hello["lifeline"]), connection))
        except (OSError, EOFError, AuthenticationError, ValueError):  # not one of ours, or it has gone again
            connection.close()


@dataclass
class Lifelines:
    """Notices which processes have ended.

    Attributes:
        on_loss: called with each rank that was lost, in a thread of its own.
        lost: the ranks that were lost, in the order of the news.
        is_closed: whether the others are expected to end.
    """

    connections: Mapping[int, Connection]
    on_loss: Callable[[int], object] = lambda rank: None
    lost: list[int] = field(default_factory=list)
    is_closed: bool = False
    _news: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        for connection in self.connections.values():
            _keep_alive(connection)
        threading.Thread(target=self._watch, name="lifelines", daemon=True).start()

    def first_lost(self, timeout: float) -> int | None:
        """The first rank that was lost, if news of one comes within `timeout` seconds."""
        with self._news:
            self._news.wait_for(lambda: bool(self.lost), timeout)
            return self.lost[0] if self.lost else None

    def lose(self, rank: int) -> RankError:
        """Note that a rank is lost, and return the error for it."""
        with self._news:
            if rank not in self.lost:
                self.lost.append(rank)
                self._news.notify_all()
        return lost_error(rank)

    def close(self) -> None:
        """Expect the others to end from now on, and let them see that this process does."""
        self.is_closed = True
        for connection in self.connections.values():
            with suppress(OSError), _socket_of(connection) as its_socket:
                its_socket.shutdown(socket.SHUT_RDWR)  # unlike closing, it wakes the thread that waits

    def _watch(self) -> None:
        left = {connection: rank for rank, connection in self.connections.items()}
        while left:
            for connection in wait(list(left)):
                assert isinstance(connection, Connection)
                rank = left.pop(connection)  # nothing is ever sent: it was closed
                if not self.is_closed:
                    self.lose(rank)
                    self.on_loss(rank)


def _socket_of(connection: Connection) -> socket.socket:
    return socket.socket(fileno=socket.dup(connection.fileno()))


def _keep_alive(connection: Connection) -> None:
    """Notice within half a minute that the other machine is gone, where the system can be asked to."""
    if not hasattr(socket, "TCP_KEEPIDLE") or sys.platform == "win32":
        return
    with suppress(OSError), _socket_of(connection) as its_socket:
        its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        its_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
        its_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS // 2)
        its_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def lost_error(rank: int | None) -> RankError:
    """The error of a run that has lost a process."""
    who = "a process" if rank is None else f"process {rank}"
    return RankError(f"Contact with {who} was lost", "it has ended, or its machine is gone.")


@dataclass
class MainWire:
    """Rank 0's end of all connections."""

    connections: Mapping[int, Connection]
    lifelines: Lifelines

    def send_all(self, message: Message) -> None:
        """Send a message to all that are left. Raises RankError if one is lost."""
        content = _encoded(message)
        lost = []
        for rank, connection in self.connections.items():
            try:
                connection.send_bytes(content)
            except OSError:
                lost.append(rank)
        if lost:
            raise self.lifelines.lose(lost[0])

    def has_message(self, ranks: list[int], seconds: float) -> bool:
        """Whether a message of any of these ranks comes, or one of them is lost, within some seconds."""
        return bool(wait([self.connections[rank] for rank in ranks], seconds))

    def receive_bytes(self, rank: int) -> bytes:
        """The next piece of what follows a message of a rank. Raises RankError if it is lost."""
        try:
            return self.connections[rank].recv_bytes()
        except (EOFError, OSError):
            raise self.lifelines.lose(rank) from None

    def receive(self, ranks: list[int]) -> tuple[int, Message]:
        """Wait for the next message of any of these ranks. Raises RankError if one of them is lost."""
        rank_of = {self.connections[rank]: rank for rank in ranks}
        connection = wait(list(rank_of))[0]
        assert isinstance(connection, Connection)
        try:
            return rank_of[connection], _decoded(connection.recv_bytes())
        except (EOFError, OSError):
            raise self.lifelines.lose(rank_of[connection]) from None

    def close(self) -> None:
        """Close all connections, once the others have closed their ends.

        What they have sent is read: the system would otherwise drop what they have not read yet.
        """
        self.lifelines.close()
        end = time.monotonic() + FAREWELL_SECONDS
        for connection in self.connections.values():
            with suppress(EOFError, OSError):
                while connection.poll(max(0.0, end - time.monotonic())):
                    connection.recv_bytes()
            connection.close()


@dataclass
class RankWire:
    """Another process's end of its connection with rank 0."""

    connection: Connection
    lifelines: Lifelines
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def join(cls, invitation: Invitation, rank: int) -> "RankWire":
        """Connect with rank 0. Raises RankError."""
        try:
            message, lifeline = (_connected(invitation, rank, is_lifeline) for is_lifeline in (False, True))
        except (OSError, EOFError) as error:
            place = f"{invitation.address}:{invitation.port}"
            raise RankError("The first process cannot be reached", f"{place}: {error}.") from error
        return cls(message, Lifelines({0: lifeline}))

    def send(self, message: Message, content: Iterable[bytes | memoryview] = ()) -> None:
        """Send a message to rank 0, and bytes that follow it in pieces, from any thread. Raises RankError."""
        try:
            with self._lock:
                self.connection.send_bytes(_encoded(message))
                for piece in content:
                    self.connection.send_bytes(piece)
        except OSError:
            raise self.lifelines.lose(0) from None

    def receive(self) -> Message:
        """Wait for the next message of rank 0. Raises RankError."""
        try:
            return _decoded(self.connection.recv_bytes())
        except (EOFError, OSError):
            raise self.lifelines.lose(0) from None

    def has_message(self) -> bool:
        """Whether a message of rank 0 is waiting, or it is gone."""
        return self.connection.poll()

    def close(self) -> None:
        """Close the connections."""
        self.lifelines.close()
        self.connection.close()


def _connected(invitation: Invitation, rank: int, is_lifeline: bool) -> Connection:
    connection = Client((invitation.address, invitation.port), authkey=invitation.key)  # answers, then challenges
    connection.send_bytes(_encoded({"rank": rank, "lifeline": is_lifeline}))
    assert isinstance(connection, Connection)
    return connection


def _encoded(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _decoded(content: bytes) -> Message:
    return json.loads(content)
