"""Sharing the run: the read-only monitor page on its own port, and a link to it."""

import contextvars
import io
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr

from ed2.app.page.folders import paths_of
from ed2.app.queue.store import RunQueue
from ed2.app.service import TrainerService
from ed2.app.user_files import UserFiles
from ed2.text import shown_path
from ed2.ui.guard import Hosts, Limits
from ed2.ui.hiding import Hide, hiding
from ed2.ui.html import escape, problems_html, status_html
from ed2.ui.image_copies import ImageCopies
from ed2.ui.live import ASK, Held, LiveData, LivePanel
from ed2.ui.page_state import Pages
from ed2.ui.queue_html import is_being_run, queue_html
from ed2.ui.serving import LOOPBACK_NAMES, serve
from ed2.ui.wiring import TICK, Updates, never_raising

USER = "viewer"
FIRST_PORT = 7890
TICK_SECONDS = 2.0
LIMITS = Limits(body=64_000, text=10_000)
"""Of what a viewer sends: a prompt is the longest."""
NO_LINK = (
    "No share link: this computer cannot reach the share service (no network, a firewall, or the service is down). "
    "Training is not affected."
)
READ_ONLY = "# Training monitor\nThis page is read-only. The run is controlled on the computer that trains it."


def _new_password() -> str:
    return secrets.token_urlsafe(9)


@dataclass
class Sharing:
    """The monitor page of this program, started when it is asked for."""

    service: TrainerService
    samples: ImageCopies
    form_values: Callable[[], Mapping[str, object]]
    queue: RunQueue = field(default_factory=lambda: RunQueue(UserFiles().folder / "queue"))
    password: str = field(default_factory=_new_password)
    link: str = ""
    monitor: Any = None
    _hosts: Hosts = field(default_factory=lambda: Hosts(LOOPBACK_NAMES))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> str:
        """Start the monitor page and a link to it, and describe both as HTML; a failure is described too."""
        with self._lock:
            if self.monitor is None:
                # In a context of its own: inside an answer to a browser Gradio 6.31 makes no whole components.
                self.monitor = contextvars.Context().run(self._serve_monitor)
            if not self.link:
                self.link = self._tunnel()
            return self.as_html()

    def _serve_monitor(self) -> gr.Blocks:
        page = monitor_page(self.service, self.samples, hiding(self.folders), self.queue)
        login = (USER, self.password)
        serve(page, port=FIRST_PORT, hosts=self._hosts, images=[self.samples], login=login, limits=LIMITS)
        return page

    def folders(self) -> list[Path]:
        """The paths that texts of a run may contain: its folder, its single file, and the paths in the form."""
        shown = self.service.snapshot()
        named = [path for path in (shown.run_dir, shown.single_file) if path]
        named += [Path(shown_path(path)) for path in named]
        for paths in paths_of(self.form_values()).values():
            named += paths
        return named

    def _tunnel(self) -> str:
        from gradio import networking, tunneling

        try:
            monitor = self.monitor
            link = networking.setup_tunnel("127.0.0.1", monitor.server_port, monitor.share_token, None, None)
        except tunneling.ChecksumMismatchError:
            # Gradio 6.31 keeps the damaged program and would start it without a check the next time.
            Path(tunneling.BINARY_PATH).unlink(missing_ok=True)
            return ""
        except Exception:  # the tunnel is a third-party program and fails in many ways
            return ""
        self._hosts.add(urlsplit(link).hostname or "")
        return link

    def as_html(self) -> str:
        """Link, user, password and a QR code; empty while nothing is shared."""
        if self.monitor is None:
            return ""
        address = escape(self.link or f"http://127.0.0.1:{self.monitor.server_port}/")
        note = code = ""
        if self.link:
            code = f'<div class="ed-qr" role="img" aria-label="QR code of the link">{_qr(self.link)}</div>'
        else:
            note = f"<p><strong>{NO_LINK}</strong> On this computer, open:</p>"
        return (
            f'<div class="ed-card ed-share">{note}'
            f'<p><a href="{address}" target="_blank" rel="noopener"><code>{address}</code></a></p>'
            f"<p>User <code>{USER}</code>, password <code>{escape(self.password)}</code></p>{code}"
            '<p class="ed-note">Anyone with these can watch the run, but cannot change anything, until you press Stop '
            "sharing or the program exits.</p></div>"
        )

    def as_text(self) -> str:
        """The same for a terminal."""
        if not self.link:
            return NO_LINK
        return f"Watch the run at {self.link}  user {USER}  password {self.password}"

    def close(self) -> None:
        """End the link and the monitor page; the next `start` makes new ones, with another password."""
        with self._lock:
            monitor, self.monitor, self.link, self.password = self.monitor, None, "", _new_password()
            if monitor is None:
                return
            from gradio import tunneling

            for tunnel in tunneling.CURRENT_TUNNELS:
                if tunnel.local_port == monitor.server_port and tunnel.proc is not None:
                    tunnel.proc.terminate()
                    tunnel.proc.communicate(timeout=10)
                    tunnel.proc = None
            monitor.close(verbose=False)


def monitor_page(service: TrainerService, samples: ImageCopies, hide: Hide, queue: RunQueue) -> gr.Blocks:
    """The read-only page: no control that changes anything, and no path of this computer, thanks to `hide`."""
    pages = Pages()
    with gr.Blocks(title="Training monitor", analytics_enabled=False, fill_width=True) as blocks:
        gr.Markdown(READ_ONLY)
        status = gr.HTML(status_html(None), js_on_load=None)
        problems = gr.HTML(problems_html(()), js_on_load=None)
        panel = LivePanel(LiveData(samples), hide=hide)
        gr.Markdown("### Queue")
        waiting = gr.HTML("", js_on_load=None, elem_id="queue")

        def tick(request: gr.Request, held: object) -> Updates:
            page, shown = pages.of(request), service.snapshot()
            now = {**panel.seen_with(shown), "queue": (queue.stamp(), is_being_run(queue))}
            updates = panel.data.updates(shown, Held.of(held))
            if page.seen == now:
                return updates or gr.skip()
            updates |= panel.updates(shown, page)
            if page.is_outdated("status", shown):
                updates[status] = status_html(shown, hide=hide)
            if page.is_outdated("problems", shown):
                updates[problems] = problems_html(shown.problems, hide=hide, is_form=False)
            if page.seen.get("queue") != now["queue"]:
                updates[waiting] = queue_html(queue.runs(), is_run=is_being_run(queue), hide=hide, is_owner=False)
            page.seen = now
            return updates or gr.skip()

        outputs = [status, problems, waiting, *panel.outputs]
        careful = never_raising(tick)
        panel.ask_when_seen(careful, outputs)
        gr.Timer(TICK_SECONDS).tick(careful, panel.inputs, outputs, js=ASK, **TICK)
        blocks.load(careful, panel.inputs, outputs, js=ASK, **TICK)
    return blocks


def _qr(link: str) -> str:
    import segno

    buffer = io.BytesIO()
    segno.make(link, error="m").save(buffer, kind="svg", scale=5, border=2, xmldecl=False, svgns=True)
    return buffer.getvalue().decode()
