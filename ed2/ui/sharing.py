"""Showing the run to others: the read-only monitor page on a port of its own, and a link to it."""

import contextvars
import io
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr

from ed2.app.service import TrainerService
from ed2.text import shown_path
from ed2.ui.guard import Hosts
from ed2.ui.hiding import Hide, hiding, paths_of
from ed2.ui.html import problems_html, status_html
from ed2.ui.live import LivePanel, Seen, changed
from ed2.ui.serving import LOOPBACK_NAMES, serve
from ed2.ui.shelf import Shelf
from ed2.ui.wiring import TICK, never_raising

USER = "viewer"
FIRST_PORT = 7890
NO_LINK = (
    "There is no link: this computer cannot reach the share service (no network, a firewall, or the service is down). "
    "Training is not affected."
)


@dataclass
class Sharing:
    """The monitor page of this program, started when it is first asked for."""

    service: TrainerService
    shelf: Shelf
    form_values: Callable[[], Mapping[str, object]]
    password: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    link: str = ""
    monitor: Any = None
    _hosts: Hosts = field(default_factory=lambda: Hosts(LOOPBACK_NAMES))

    def start(self) -> str:
        """Start the monitor page and a link to it, and tell of it in HTML; what fails is told in words."""
        if self.monitor is None:
            # In a context of its own: inside an answer to a browser Gradio 6.31 makes no whole components.
            self.monitor = contextvars.Context().run(self._serve_monitor)
        if not self.link:
            self.link = self._tunnel()
        return self.as_html()

    def _serve_monitor(self) -> gr.Blocks:
        page = monitor_page(self.service, self.shelf, hiding(self._folders))
        serve(page, port=FIRST_PORT, hosts=self._hosts, shelves=[self.shelf], login=(USER, self.password))
        return page

    def _folders(self) -> list[Path]:
        """What the texts of a run may name: its folder, its single file, and the paths of the form."""
        shown = self.service.snapshot()
        made = [path for path in (shown.run_dir, shown.single_file) if path]
        return [*paths_of(self.form_values()), *made, *(Path(shown_path(path)) for path in made)]

    def _tunnel(self) -> str:
        from gradio import networking, tunneling

        try:
            monitor = self.monitor
            link = networking.setup_tunnel("127.0.0.1", monitor.server_port, monitor.share_token, None, None)
        except tunneling.ChecksumMismatchError:
            # Gradio 6.31 keeps the damaged program and would start it unseen the next time.
            Path(tunneling.BINARY_PATH).unlink(missing_ok=True)
            return ""
        except Exception:  # the tunnel is a program of others, which fails in many ways
            return ""
        self._hosts.add(urlsplit(link).hostname or "")
        return link

    def as_html(self) -> str:
        """Link, user, password and a QR code."""
        address = self.link or f"http://127.0.0.1:{self.monitor.server_port}/"
        where = f'<a href="{escape(address)}" target="_blank" rel="noopener"><code>{escape(address)}</code></a>'
        note = "" if self.link else f"<p><strong>{NO_LINK}</strong> On this computer the page is at:</p>"
        code = (
            f'<div class="ed-qr" role="img" aria-label="QR code of the link">{_qr(self.link)}</div>'
            if self.link
            else ""
        )
        return (
            f'<div class="ed-card ed-share">{note}<p>{where}</p><p>User <code>{USER}</code>, password '
            f"<code>{escape(self.password)}</code></p>{code}<p class='ed-note'>Whoever has these can watch this run "
            "and do nothing else. It ends with this program.</p></div>"
        )

    def as_text(self) -> str:
        """The same for a terminal."""
        if not self.link:
            return NO_LINK
        return f"Watch from elsewhere: {self.link}  user {USER}  password {self.password}"

    def close(self) -> None:
        """End the link and the monitor page."""
        if self.monitor is None:
            return
        from gradio import tunneling

        for tunnel in tunneling.CURRENT_TUNNELS:
            if tunnel.local_port == self.monitor.server_port and tunnel.proc is not None:
                tunnel.proc.terminate()
                tunnel.proc.communicate(timeout=10)
                tunnel.proc = None
        self.monitor.close(verbose=False)


def monitor_page(service: TrainerService, shelf: Shelf, hide: Hide) -> gr.Blocks:
    """The read-only page: no control that changes anything, no path of this computer, as `hide` sees to it."""
    with gr.Blocks(title="Training monitor", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown("# Training monitor\nThis page only shows. The run is started and stopped at the computer itself.")
        status = gr.HTML(status_html(None), js_on_load=None)
        problems = gr.HTML(problems_html(()), js_on_load=None)
        panel = LivePanel(service, shelf, hide=hide)
        seen = gr.State({})

        def tick(before: Seen, *inputs: Any) -> list[Any]:
            shown = service.snapshot()
            now = panel.seen_now(shown, list(inputs))
            if before == now:
                return [gr.skip()] * (3 + len(panel.outputs))
            is_new = changed(shown, before)
            return [
                now,
                status_html(shown, hide=hide) if is_new("status") else gr.skip(),
                problems_html(shown.problems, hide=hide) if is_new("problems") else gr.skip(),
                *panel.updates(shown, before, list(inputs)),
            ]

        outputs = [seen, status, problems, *panel.outputs]
        careful = never_raising(tick, len(outputs))
        gr.Timer(2.0).tick(careful, [seen, *panel.inputs], outputs, **TICK)
        page.load(lambda *inputs: careful({}, *inputs), panel.inputs, outputs, **TICK)
    return page


def _qr(link: str) -> str:
    import segno

    buffer = io.BytesIO()
    segno.make(link, error="m").save(buffer, kind="svg", scale=5, border=2, xmldecl=False, svgns=True)
    return buffer.getvalue().decode()
