"""Serves a page on a port, and closes what Gradio leaves open."""

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import http_server

from ed2.errors import Ed2Error
from ed2.ui.connections import Connections, bounded_server, raise_handle_limit
from ed2.ui.guard import Guard, Hosts, Limits
from ed2.ui.image_copies import ImageCopies

CSS_NAMES = ("page.css", "studio.css", "workbench.css", "settings.css", "runs.css")
JS_NAMES = ("page.js", "charts.js", "matrix.js", "live.js", "workbench.js", "settings.js", "runs.js")
CSS_FILES = tuple(Path(__file__).with_name(name) for name in CSS_NAMES)
JS_FILES = tuple(Path(__file__).with_name(name) for name in JS_NAMES)
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
PORTS_TRIED = 20
MAX_PORT = 65535
IDLE_SECONDS = 0.05
PROBED_WITH = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
"""With these a port that was just released is free. Only Windows has the first; the second would share a busy port."""
_STARTING = threading.Lock()
LAUNCHED_WITH: Mapping[str, Any] = {
    "prevent_thread_lock": True,
    "quiet": True,
    "state_session_capacity": 200,
    "css_paths": list(CSS_FILES),
    "share": False,
    "inbrowser": False,
    "show_error": False,
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "mcp_server": False,
    "ssr_mode": False,
    "pwa": False,
    "strict_cors": True,
    "max_file_size": "1kb",
    "auth_message": "EveryDream with a face. User and password were shown with its address.",
}
"""How Gradio starts, most of it without what this page does not need."""


def serve(  # noqa: PLR0913
    page: gr.Blocks,
    *,
    port: int,
    hosts: Hosts,
    images: Sequence[ImageCopies],
    login: tuple[str, str] | None = None,
    server_name: str = "127.0.0.1",
    limits: Limits | None = None,
) -> int:
    """Serve a page from `port`, or the next free one of 20, in threads of its own.

    Args:
        page: as built.
        port: the first one to try.
        hosts: the names that it answers under.
        images: the copies that it shows.
        login: user and password, if it asks for them.
        server_name: the address of this computer that it is served on.
        limits: of what a browser may send.

    Returns:
        The port.

    Raises:
        Ed2Error: none of them is free.
    """
    page.queue(api_open=False, max_size=64)
    if hasattr(page._queue, "sleep_when_free"):  # Gradio 6.31 looks every millisecond: 6 % of a core for nothing
        page._queue.sleep_when_free = IDLE_SECONDS
    chosen = free_port(port, server_name)
    app = {"routes": [copies.mount() for copies in images], "docs_url": None, "redoc_url": None, "openapi_url": None}
    scripts = "".join(f"<script>{file.read_text(encoding='utf-8')}</script>" for file in JS_FILES)
    own = {"theme": theme(), "head": scripts, "app_kwargs": app, **LAUNCHED_WITH}
    with _guarded(hosts, limits or Limits()):
        page.launch(server_name=server_name, server_port=chosen, auth=login, **own)
    return chosen


@contextmanager
def _guarded(hosts: Hosts, limits: Limits) -> Iterator[None]:
    """Meanwhile Gradio 6.31 starts a server that is guarded and bounded from its first connection on.

    Gradio takes neither a server nor an app around its own, and puts its own answers to other origins outermost.
    """
    connections = Connections.within(raise_handle_limit())
    with _STARTING:
        own = http_server.Server
        http_server.Server = bounded_server(connections, lambda app: Guard(app, hosts, connections, limits))
        try:
            yield
        finally:
            http_server.Server = own


def free_port(first: int, server_name: str = "127.0.0.1") -> int:
    """The first free port of 20 from `first` on. Raises Ed2Error."""
    last = min(first + PORTS_TRIED - 1, MAX_PORT)
    for port in range(first, last + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, PROBED_WITH, 1)
            try:
                probe.bind((server_name, port))
            except OSError:
                continue
            return port
    raise Ed2Error(f"Ports {first} to {last} are all in use", "", "Choose another with --port.")


def theme() -> gr.themes.Base:
    """The theme: system fonts, light or dark as the system is."""
    return gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_padding="0",
        block_info_text_color="#55617a",
        block_info_text_color_dark="#a9b4c6",
        body_text_color_subdued="#55617a",
        body_text_color_subdued_dark="#a9b4c6",
        input_placeholder_color="#55617a",
        input_placeholder_color_dark="#a9b4c6",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600",
        block_border_width="1px",
        block_radius="10px",
        container_radius="10px",
        input_radius="6px",
        button_large_radius="8px",
        button_medium_radius="8px",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        checkbox_border_width="1px",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        checkbox_label_background_fill_selected="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_secondary_background_fill="*neutral_200",
        button_secondary_background_fill_hover="*neutral_300",
    )
