"""What a stranger who reaches the monitor page of this computer may try: bounded in number and time."""

import resource
import selectors
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

SECONDS = 120
"""Each part of the attack ends after this time, whatever it has done."""
AT_ONCE = 20
CHUNK = b"x" * 65536
_T = TypeVar("_T")
OFTEN = "/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel", "/login"


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    connections: int = 2000
    half_posts: int = 200
    bodies: int = 10
    body_bytes: int = 300_000_000
    logins: int = 2000
    documents: int = 2000


SHORT = Sizes(connections=400, half_posts=60, bodies=4, body_bytes=50_000_000, logins=60, documents=200)


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        still_open: connections that were not closed again a second after the last was opened.
        taken: the most bytes of one body that were taken.
        documents: how often the document with the login was sent.
        documents_seconds: how long that took.
        logins: wrong passwords that were sent.
        looked_at: how many of them were looked at.
        refused_unseen: how many of them were refused without a look.
        logins_seconds: how long that took.
    """

    still_open: int = 0
    taken: int = 0
    documents: int = 0
    documents_seconds: float = 0.0
    logins: int = 0
    looked_at: int = 0
    refused_unseen: int = 0
    logins_seconds: float = 0.0


def attack(port: int, sizes: Sizes) -> Outcome:
    """Try all of it, one after the other."""
    outcome = Outcome()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, sizes.connections + sizes.half_posts + 100), hard))
    held = _many(sizes.half_posts, lambda n: _half_post(port))
    held += _many(sizes.connections, lambda n: _send(port, _get(f"/gradio_api/heartbeat/{n}")))
    time.sleep(1)
    outcome.still_open = sum(_is_open(connection) for connection in held if connection)
    for number in range(sizes.bodies):
        outcome.taken = max(outcome.taken, _large_body(port, OFTEN[number % len(OFTEN)], sizes.body_bytes))
    for connection in filter(None, held):
        connection.close()
    began = time.monotonic()
    outcome.documents = _many(sizes.documents, lambda n: _status(_send(port, _get("/")))).count(200)
    outcome.documents_seconds = time.monotonic() - began
    began = time.monotonic()
    statuses = _many(sizes.logins, lambda n: _status(_send(port, _form(f"username=viewer&password=wrong{n}"))))
    outcome.logins_seconds = time.monotonic() - began
    outcome.logins, outcome.looked_at, outcome.refused_unseen = (
        len(statuses),
        statuses.count(400),
        statuses.count(429),
    )
    return outcome


def _many(times: int, work: Callable[[int], _T]) -> list[_T]:
    """Do it so often, some at once: a connection that the system holds back for a second holds back no other."""
    end = time.monotonic() + SECONDS

    def once(number: int) -> list[_T]:
        return [work(number)] if time.monotonic() < end else []

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [result for results in pool.map(once, range(times)) for result in results]


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def _send(port: int, content: bytes) -> socket.socket | None:
    try:
        connection = _connect(port)
        connection.sendall(content)
    except OSError:
        return None
    return connection


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def _post(path: str, more: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{more}\r\n\r\n".encode()


def _form(fields: str) -> bytes:
    kind = "application/x-www-form-urlencoded"
    head = f"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(fields)}\r\n"
    return f"{head}Connection: close\r\n\r\n{fields}".encode()


def _half_post(port: int) -> socket.socket | None:
    return _send(port, _post("/login", "Content-Length: 1000") + b"half")


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while content := connection.recv(65536):
            del content
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _large_body(port: int, path: str, num_bytes: int) -> int:
    """Send a body until it is refused; returns how many bytes were taken, by the network's buffers too."""
    head, taken, end = _post(path, f"Content-Length: {num_bytes}"), 0, time.monotonic() + 10
    try:
        with _connect(port) as connection, selectors.DefaultSelector() as selector:
            connection.sendall(head)
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_WRITE)
            while taken < num_bytes and time.monotonic() < end:
                if selector.select(1):
                    taken += connection.send(CHUNK)
    except OSError:
        pass
    return taken


def _status(connection: socket.socket | None) -> int:
    if connection is None:
        return 0
    try:
        with connection:
            connection.settimeout(10)
            answer = connection.recv(64)
    except OSError:
        return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0
