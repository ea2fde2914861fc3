"""Who may ask the page for what: hosts, origins, and routes of Gradio that this page does not need.

Without this any web page could drive the trainer through the user's browser (DNS rebinding), or fill the disk with
uploads (cross-site request forgery).
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

CLOSED: tuple[str, ...] = ("file=", "file/", "upload", "upload_progress", "proxy=", "stream", "component_server")
CLOSED += ("process_recording", "deep_link", "runs", "mcp", "vibe", "custom_component", "call")
"""Beginnings of paths below /gradio_api/ that nothing on the page asks for."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


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


class Guard:
    """ASGI middleware that refuses requests with 400, 403 or 404."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed."""
        refused = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refused is None:
            await self._pass_on(scope, receive, send)
        else:
            await refused(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except RuntimeError as error:
            # Gradio refuses a stream that it has already started when its page is reloaded. It just ends: no error
            if not isinstance(error.__cause__, HTTPException):
                raise
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._hosts.allow(headers.get("host", "")):
            return PlainTextResponse("This page is not served under this name.", 400)
        is_safe = scope["type"] == "http" and scope["method"] in SAFE_METHODS
        if not is_safe and not self._is_same_site(headers):
            return PlainTextResponse("Requests from other pages are refused.", 403)
        return PlainTextResponse("Not found.", 404) if _is_closed(scope["path"]) else None

    def _is_same_site(self, headers: dict[str, str]) -> bool:
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = headers.get("origin")
        if origin is None:
            return True
        netloc = urlsplit(origin).netloc if "//" in origin else ""
        own = headers.get("host", "")
        return netloc == own or (self._hosts.allow(netloc) and not _is_loopback(netloc))


def _is_loopback(netloc: str) -> bool:
    """Another port of this computer belongs to another program, which is not trusted."""
    return urlsplit(f"//{netloc}").hostname in ("127.0.0.1", "localhost", "::1")


def _is_closed(path: str) -> bool:
    for prefix in ("/gradio_api/", "/"):
        if path.startswith(prefix):
            return path.removeprefix(prefix).startswith(CLOSED)
    return False
