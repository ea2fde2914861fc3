"""How many connections a page holds, and for how long: what strangers do must not take handles from the run.

Everything here runs in the event loop of one page, so there are no locks.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from gradio import http_server
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 15.0
"""In this time a request has to arrive, head and body each."""
MAX_STRANGERS, MAX_KNOWN = 64, 128
FEW = 12
"""However few handles this program may have, a page holds as many connections; a browser makes six."""
BACKLOG = 16
"""Connections accepted at once, before any of them can be closed again."""

Client = tuple[str, int]
"""Address and port of the other end, which name a connection while it is open."""


def raise_handle_limit() -> int:
    """Let this program open as many files and connections as its user may; returns how many that are."""
    if sys.platform == "win32":
        return 8192
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(hard, 8192)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
        return wanted
    return wanted if soft == resource.RLIM_INFINITY else soft


@dataclass
class Connection:
    """An open connection.

    Attributes:
        is_known: it has brought a request that only an open page of ours makes, after the login if there is one.
        timer: closes it unless a request arrives in time; None during a request.
    """

    transport: asyncio.Transport
    is_known: bool = False
    timer: asyncio.TimerHandle | None = None


@dataclass
class Connections:
    """The connections of one page: a budget for strangers, and one for open pages, which strangers cannot use up.

    Where there are too many strangers, the oldest connection of the address that has most is closed: a new one gets
    the time to show who it is. At most half of them come from one address.
    """

    max_strangers: int = MAX_STRANGERS
    max_known: int = MAX_KNOWN
    _open: dict[Client, Connection] = field(default_factory=dict)

    @classmethod
    def within(cls, handles: int) -> "Connections":
        """A budget that leaves most of the handles to the run, for two pages."""
        return cls(min(MAX_STRANGERS, max(FEW, handles // 16)), min(MAX_KNOWN, max(FEW, handles // 8)))

    def opened(self, client: Client, transport: asyncio.Transport) -> None:
        """Count a new connection, and close others if there are too many."""
        self._open[client] = Connection(transport)
        self.ended(client)
        strangers = [address for (address, _), one in self._open.items() if not one.is_known]
        address, most = Counter(strangers).most_common(1)[0]
        if len(strangers) > self.max_strangers or most > self.max_strangers // 2:
            self._close_oldest(address)

    def closed(self, client: Client) -> None:
        """Forget a connection."""
        connection = self._open.pop(client, None)
        if connection and connection.timer:
            connection.timer.cancel()

    def began(self, client: Client) -> None:
        """A request has arrived."""
        connection = self._open.get(client)
        if connection and connection.timer:
            connection.timer.cancel()
            connection.timer = None

    def ended(self, client: Client) -> None:
        """A request was answered: the next has to arrive in time."""
        connection = self._open.get(client)
        if connection and not connection.timer:
            connection.timer = asyncio.get_running_loop().call_later(REQUEST_SECONDS, connection.transport.abort)

    def recognize(self, client: Client) -> None:
        """Move a connection to the budget of open pages, while there is room."""
        connection = self._open.get(client)
        if connection and sum(one.is_known for one in self._open.values()) < self.max_known:
            connection.is_known = True

    def _close_oldest(self, address: str) -> None:
        for client, connection in self._open.items():
            if client[0] == address and not connection.is_known:
                self.closed(client)
                connection.transport.abort()
                return


class BoundedProtocol(H11Protocol):
    """HTTP that counts its connections before it reads anything."""

    budget: Connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection."""
        super().connection_made(transport)
        if self.client is None:  # it is gone already
            transport.abort()
        else:
            self.budget.opened(self.client, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self.client is not None:
            self.budget.closed(self.client)
        super().connection_lost(exc)


def bounded_server(budget: Connections, wrap: Callable[[Any], Any]) -> Callable[[uvicorn.Config], uvicorn.Server]:
    """What Gradio 6.31 is to use in place of its server: within a budget, and with the app wrapped.

    Headers that claim another address of the sender are not believed, and web sockets are off.
    """
    server = http_server.Server

    def make(config: uvicorn.Config) -> uvicorn.Server:
        config.http = type("Protocol", (BoundedProtocol,), {"budget": budget})
        config.app = wrap(config.app)
        config.backlog, config.ws, config.proxy_headers, config.server_header = BACKLOG, "none", False, False
        return server(config)

    return make
