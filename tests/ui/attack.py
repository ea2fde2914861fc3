"""What a stranger who reaches the monitor page of this computer may try: bounded in number and time."""

import resource
import selectors
import socket
import time
from dataclasses import dataclass

SECONDS = 120
"""The attack ends after this time, whatever it has done."""
AT_ONCE = 20
CHUNK = b"x" * 65536
OFTEN = "/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel", "/login"


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    connections: int = 2000
    half_posts: int = 200
    bodies: int = 10
    body_bytes: int = 300_000_000
    logins: int = 2000


SHORT = Sizes(connections=400, half_posts=60, bodies=4, body_bytes=50_000_000, logins=60)


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        still_open: connections that were not closed again a second after the last was opened.
        taken: the most bytes of one body that were taken.
        looked_at: wrong passwords that were looked at; the others were refused unseen.
        seconds: how long it took.
    """

    still_open: int = 0
    taken: int = 0
    looked_at: int = 0
    refused_unseen: int = 0
    seconds: float = 0.0


def attack(port: int, sizes: Sizes) -> Outcome:
    """Try all of it, one after the other."""
    began, outcome = time.monotonic(), Outcome()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, sizes.connections + sizes.half_posts + 100), hard))
    held = [_half_post(port) for _ in range(sizes.half_posts)]
    held += [_send(port, _get(f"/gradio_api/heartbeat/{n}")) for n in range(sizes.connections)]
    time.sleep(1)
    outcome.still_open = sum(_is_open(connection) for connection in held if connection)
    for number in range(sizes.bodies):
        outcome.taken = max(outcome.taken, _large_body(port, OFTEN[number % len(OFTEN)], sizes.body_bytes))
    for connection in filter(None, held):
        connection.close()
    for number in range(0, sizes.logins, AT_ONCE):
        if time.monotonic() - began > SECONDS:
            break
        tries = [_send(port, _form(f"username=viewer&password=wrong{number + n}")) for n in range(AT_ONCE)]
        statuses = [_status(connection) for connection in tries if connection]
        outcome.looked_at += statuses.count(400)
        outcome.refused_unseen += statuses.count(429)
    outcome.seconds = time.monotonic() - began
    return outcome


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


def _status(connection: socket.socket) -> int:
    try:
        with connection:
            connection.settimeout(10)
            answer = connection.recv(64)
    except OSError:
        return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0
