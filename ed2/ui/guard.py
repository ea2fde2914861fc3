"""Who may ask the page for what: hosts, origins, logins, sizes, and routes of Gradio that this page does not need.

Without this any web page could read and drive the trainer through the user's browser (DNS rebinding, cross-site request
forgery), and anyone who reaches the monitor page could fill memory before the login is looked at.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send

from ed2.errors import printable
from ed2.ui.connections import REQUEST_SECONDS, Client, Connections
from ed2.ui.limits import DocumentLimit, LoginLimit, call_problem

CLOSED: tuple[str, ...] = ("file=", "file/", "upload", "upload_progress", "proxy=", "stream", "component_server")
CLOSED += ("process_recording", "deep_link", "runs", "mcp", "vibe", "custom_component", "call", "dev/", "profiling")
"""Prefixes of paths below /gradio_api/ that the page never requests."""
CALLS = ("/gradio_api/run/predict", "/gradio_api/queue/join")
POSTED = (*CALLS, "/gradio_api/cancel", "/gradio_api/reset", "/login", "/logout")
"""All that may be posted."""
DOCUMENT = "/"
STATIC: tuple[str, ...] = (
    "/assets/",
    "/static/",
    "/svelte/",
    "/favicon.ico",
    "/theme.css",
    "/gradio_api/theme.css",
    "/manifest.json",
)
STATIC += ("/robots.txt", "/pwa_icon", "/gradio_api/startup-events")
"""What anyone may read: files of Gradio, the same for everybody. The last one does nothing after the start."""
MAX_BODY, MAX_LOGIN = 1_000_000, 8_000
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio runs the page's handlers as strings
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer: nothing from elsewhere is shown or run, and no other page shows, reads or follows this one."""
_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

logger = logging.getLogger(__name__)


class Hosts:
    """The host names the page answers under; more may be added while it runs."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name.lower() for name in names}

    def add(self, name: str) -> None:
        """Allow one more name."""
        self._names.add(name.lower())

    def allow(self, netloc: str) -> bool:
        """Whether a host, with or without its port, is one of ours."""
        try:
            name = urlsplit(f"//{netloc}").hostname
        except ValueError:
            return False
        return name is not None and name.lower() in self._names


@dataclass(frozen=True)
class Limits:
    """What a page accepts in a call: bytes of the body, and characters of one value."""

    body: int = MAX_BODY
    text: int = MAX_BODY


class TooLargeError(Exception):
    """A body over the limit."""


class Guard:
    """ASGI middleware around all of Gradio: refuses what is not allowed, and answers nobody elsewhere."""

    def __init__(self, app: Any, hosts: Hosts, connections: Connections, limits: Limits) -> None:
        self._app, self._hosts, self._connections, self._limits = app, hosts, connections, limits
        self._logins, self._documents = LoginLimit(), DocumentLimit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # the start and end of the server; web sockets are off
            return
        client: Client = tuple(scope["client"] or ("", 0))
        self._connections.began(client)
        answer = _Answer(send)
        try:
            await self._answer(scope, receive, answer)
        except Exception as error:
            if not _is_reload(error):
                text = printable(f"{type(error).__name__}: {error}", 200)
                logger.warning("A request to the page failed: %s", text)
                logger.debug("Its traceback:", exc_info=True)
            await answer.finish(scope, receive)
        finally:
            self._connections.ended(client)

    async def _answer(self, scope: Scope, receive: Receive, send: "_Answer") -> None:
        refused = self._refusal(scope)
        if refused is None and not _is_public(scope["path"]):
            self._connections.recognize(tuple(scope["client"] or ("", 0)))
        if refused is None and scope["method"] == "POST":
            refused, receive = await self._read(scope, receive)
        if refused is None and scope["path"] == "/login" and scope["method"] == "POST":
            refused = await self._login(scope, receive, send)
            if refused is None:
                return
        await (refused or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        """What the head of a request is refused with: nothing of its body has been read."""
        headers, path = headers_of(scope), scope["path"]
        if not all(self._hosts.allow(headers.get(name, "")) for name in _names_of_hosts(headers)):
            return _refused("This page is not served under this name.", 400)
        if not self._is_allowed_from(headers, path, scope["method"]):
            return _refused("Requests from other pages are refused.", 403)
        if not has_session(self._app, scope):
            if not _is_public(path):
                return _refused("Log in first.", 401)
            if path == DOCUMENT and not self._documents.admit():
                return _refused("Too many requests. Try again in a second.", 429, {"retry-after": "1"})
        return _route_refusal(scope) or self._size_refusal(headers, path)

    def _is_allowed_from(self, headers: Mapping[str, str], path: str, method: str) -> bool:
        """Whether a request comes from this page. The document may be linked to, and its files are no secret."""
        if method in ("GET", "HEAD"):
            if path.startswith(STATIC):
                return True
            if path == DOCUMENT and "origin" not in headers:
                return headers.get("sec-fetch-dest", "document") == "document" or _is_own_fetch(headers)
        return _is_own_fetch(headers) and self._is_own_origin(headers)

    def _is_own_origin(self, headers: Mapping[str, str]) -> bool:
        origin = headers.get("origin")
        if origin is None:
            return True
        netloc = urlsplit(origin).netloc if "//" in origin else ""
        own = headers.get("host", "")
        return netloc == own or (self._hosts.allow(netloc) and not _is_loopback(netloc))

    def _size_refusal(self, headers: Mapping[str, str], path: str) -> Response | None:
        if headers.get("content-encoding", "identity") != "identity":
            return _refused("Compressed requests are refused.", 415)
        length = headers.get("content-length", "0")
        is_small = length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= self._max_body(path)
        return None if is_small else _refused("The request is too large.", 413)

    def _max_body(self, path: str) -> int:
        return min(MAX_LOGIN, self._limits.body) if path == "/login" else self._limits.body

    async def _read(self, scope: Scope, receive: Receive) -> tuple[Response | None, Receive]:
        """Read the body, in time and up to the limit, and give it again to whoever comes next."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                body = await _body_of(receive, self._max_body(scope["path"]))
        except TimeoutError:
            return _refused("The request did not arrive in time.", 408), receive
        except TooLargeError:
            return _refused("The request is too large.", 413), receive
        if scope["path"] == "/logout":
            return self._log_out(scope), receive
        if scope["path"] in CALLS and (problem := call_problem(body, self._app.get_blocks().fns, self._limits.text)):
            return _refused(problem, 400), receive
        return None, _replayed(body, receive)

    async def _login(self, scope: Scope, receive: Receive, send: "_Answer") -> Response | None:
        """Have Gradio look at a password, if it may be; returns a refusal, or None if it was answered."""
        address = scope["client"][0] if scope["client"] else ""
        if not await self._logins.admit(address):
            return _refused("Too many wrong passwords. Try again in a second.", 429, {"retry-after": "1"})
        await self._app(scope, receive, send)
        if send.status == 400:
            self._logins.wrong(address)
        elif send.status < 400:
            self._logins.right(address)
        return None

    def _log_out(self, scope: Scope) -> Response:
        """End the session of this browser, and no other."""
        answer = RedirectResponse(DOCUMENT, 303)
        for name in _cookie_names(self._app):
            self._app.tokens.pop(_cookies(scope).get(name), None)
            answer.delete_cookie(name)
        return answer


class _Answer:
    """Sends an answer with our headers and without those that allow other origins; remembers how far it came."""

    def __init__(self, send: Send) -> None:
        self._send, self.status, self._is_complete = send, 0, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = [pair for pair in message.get("headers", []) if not _is_replaced(pair[0])]
            message = {**message, "headers": [*own, *_HEADERS]}
        elif message["type"] == "http.response.body":
            self._is_complete = not message.get("more_body", False)
        await self._send(message)

    async def finish(self, scope: Scope, receive: Receive) -> None:
        """End an answer that failed."""
        if not self.status:
            await _refused("The request failed.", 500)(scope, receive, self)
        elif not self._is_complete:
            await self({"type": "http.response.body", "body": b"", "more_body": False})


def has_session(app: Any, scope: Scope) -> bool:
    """Whether the login was passed, as Gradio 6.31 records it for its own answers, or there is none."""
    if getattr(app, "auth", None) is None:
        return True
    cookies = _cookies(scope)
    return any(cookies.get(name) in app.tokens for name in _cookie_names(app))


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers of a request; of one that was sent twice the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _cookies(scope: Scope) -> dict[str, str]:
    try:
        return {name: one.value for name, one in SimpleCookie(headers_of(scope).get("cookie", "")).items()}
    except CookieError:
        return {}


def _cookie_names(app: Any) -> tuple[str, str]:
    return f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}"


def _names_of_hosts(headers: Mapping[str, str]) -> list[str]:
    return ["host", *(["x-forwarded-host"] if "x-forwarded-host" in headers else [])]


def _is_own_fetch(headers: Mapping[str, str]) -> bool:
    return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


def _is_public(path: str) -> bool:
    """Whether strangers may ask for it: the document shows them the login."""
    return path in (DOCUMENT, "/login") or path.startswith(STATIC)


def _route_refusal(scope: Scope) -> Response | None:
    path, method = scope["path"], scope["method"]
    if _is_closed(path):
        return _refused("Not found.", 404)
    if method in ("GET", "HEAD"):
        return _refused("Log out with a POST.", 405) if path.rstrip("/") == "/logout" else None
    if method == "POST":
        return None if path in POSTED else _refused("Not found.", 404)
    return _refused("Not allowed.", 405)


def _is_replaced(name: bytes) -> bool:
    lowered = name.lower()
    return lowered.startswith(b"access-control-") or lowered.decode("latin-1") in HEADERS


def _is_reload(error: Exception) -> bool:
    """Gradio refuses a stream that it has already started when its page is reloaded. It just ends: no error."""
    return isinstance(error, RuntimeError) and isinstance(error.__cause__, HTTPException)


def _refused(text: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """An answer after which the connection ends: what else was sent on it is not read."""
    return PlainTextResponse(text, status, {"connection": "close", "cache-control": "no-store", **(headers or {})})


async def _body_of(receive: Receive, limit: int) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message.get("body", b"")
        if len(body) > limit:
            raise TooLargeError
        if not message.get("more_body", False):
            return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read, and then what else arrives."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return waiting.pop() if waiting else await receive()

    return give


def _is_loopback(netloc: str) -> bool:
    """Another port of this computer belongs to another program, which is not trusted."""
    return urlsplit(f"//{netloc}").hostname in ("127.0.0.1", "localhost", "::1")


def _is_closed(path: str) -> bool:
    for prefix in ("/gradio_api/", "/"):
        if path.startswith(prefix):
            return path.removeprefix(prefix).startswith(CLOSED)
    return False
