"""The models that are on this computer, and downloading a public one after a yes."""

from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.local_models import models_here
from ed2.app.page.downloads import Downloader, DownloadStatus
from ed2.models.files.base_model import PUBLIC_EXAMPLE, PUBLIC_NAME, locate
from ed2.models.files.found import FoundModel
from ed2.settings.files import PROGRAM_DIR, absolute_paths
from ed2.terminal import LAUNCHER
from ed2.text import file_size
from ed2.ui.context import Context
from ed2.ui.form import short_path
from ed2.ui.html import button_html, buttons_html, escape, list_html, note_html, on_page
from ed2.ui.wiring import QUIET, SLOW, SPOKEN, TICK, Updates, Values, fill, refusal, refusing

TICK_SECONDS = 1.0
EXPLANATION = "Download a public model of huggingface.co. Size and licence are shown before anything is downloaded."
ONLY_HERE = (
    "This page may use some folders only, so it cannot download. On the computer that runs it, use: "
    f"{LAUNCHER} download NAME"
)
NONE_FOUND = "No models were found on this computer. Download one below, or choose a folder."
FOUND = "On this computer"


class DownloadControls:
    """A name to look up, the press that is the yes, and how far the download is; create it inside a `gr.Blocks`.

    Attributes:
        is_allowed: whether the page may download.
    """

    def __init__(self, context: Context, label: str, explanation: str, value: str = "", prefix: str = "") -> None:
        """Show them.

        Args:
            context: of the page.
            label: of the name.
            explanation: what is downloaded.
            value: the name to begin with.
            prefix: of the ids, which a page has once.
        """
        self._prefix = prefix
        self.downloader = Downloader()
        self.is_allowed = context.roots.folders is None
        gr.HTML(note_html(explanation if self.is_allowed else ONLY_HERE), js_on_load=None)
        with gr.Row(visible=self.is_allowed):
            self.name = gr.Textbox(
                value,
                label=label,
                placeholder=f"for example {PUBLIC_EXAMPLE}",
                max_lines=1,
                elem_id=f"{prefix}download-name",
                interactive=True,
                scale=3,
            )
            self.look_up = gr.Button("Look up", elem_id=f"{prefix}look-up-button", min_width=120, scale=0)
        watch = "ed.watchFolders(element, trigger)"
        self.result = gr.HTML(self._status(), elem_id=f"{prefix}download-result", js_on_load=watch)
        with gr.Row(elem_classes="ed-actions"):
            self.start = gr.Button("Download", elem_id=f"{prefix}download-button", min_width=140, visible=False)
            self.stop = gr.Button(
                "Stop download", elem_id=f"{prefix}stop-download-button", min_width=140, visible=False
            )
        self._timer = gr.Timer(TICK_SECONDS, active=False)

    def wire(self, opened: Any) -> None:
        """Connect the buttons; `opened` is the event that shows them."""
        outputs = [self.result, self.start, self.stop, self._timer]
        opened(self.show, None, outputs, **QUIET)
        for event in (self.look_up.click, self.name.submit):
            event(self.ask, self.name, outputs, **SLOW)
        self.start.click(self.begin, None, outputs, **SPOKEN)
        self.stop.click(self.downloader.stop, None, None, **QUIET)
        self._timer.tick(self.show, None, outputs, **TICK)

    def ask(self, name: str) -> Updates:
        """Ask the hub for size and licence."""
        self._require_allowed()
        with refusing():
            self.downloader.look_up(name.strip())
        return self.show()

    def begin(self) -> Updates:
        """Download what was offered: the press is the yes."""
        self._require_allowed()
        with refusing():
            self.downloader.start()
        return self.show()

    def show(self) -> Updates:
        """How far the download is, and which buttons make sense."""
        shown = self.downloader.shown
        return {
            self.result: self._status(),
            self.start: gr.update(visible=shown.state == "offered", value=f"Download {shown.size}"),
            self.stop: gr.update(visible=shown.state == "running"),
            self._timer: gr.Timer(active=shown.state == "running"),
        }

    def _status(self) -> str:
        return status_html(self.downloader.shown, f"{self._prefix}download-status")

    def _require_allowed(self) -> None:
        if not self.is_allowed:
            raise refusal(ONLY_HERE)


class DownloadPanel(DownloadControls):
    """The found models, and the download of another one."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.found = gr.HTML("", elem_id="found-models", js_on_load="ed.watchFolders(element, trigger)")
        with gr.Column(elem_classes="ed-card", elem_id="download-card"):
            super().__init__(context, "Public model (owner/name)", EXPLANATION)

    def wire_base(self, opened: Any, base: Any) -> None:
        """Connect everything; `opened` is the event that opens the choice, `base` the control of the base model."""
        self._base = base
        fill(opened, self.suggest, [base, self.name], [self.name], **QUIET)
        opened(self.find, None, self.found, **SLOW)
        self.wire(opened)

    def suggest(self, _: gr.Request, held: Values) -> Updates:
        """The base model's name where that is a public one that is not here, as in a preset."""
        wanted = held[self._base].strip()
        if held[self.name].strip() or not PUBLIC_NAME.fullmatch(wanted) or locate(wanted):
            return {}
        return {self.name: wanted}

    def find(self) -> str:
        """The models on this computer, as far as the page may open them."""
        given = absolute_paths({"model_dirs": self._context.form_values().get("model_dirs") or []}, PROGRAM_DIR)
        dirs = given["model_dirs"]
        models = models_here(map(str, dirs) if isinstance(dirs, list) else [], self._context.roots.allow)
        if not models:
            return note_html(NONE_FOUND)
        cards = [card_html(short_path(model.name), model) for model in models]
        return note_html(FOUND) + list_html(cards, "ed-folders ed-models", f'aria-label="{FOUND}"')


def card_html(name: str, model: FoundModel) -> str:
    """A base model to choose: what it is, how large, and under which licence."""
    predicted = {None: "not stated in the file", "epsilon": "noise (epsilon)", "v_prediction": "v-prediction"}
    facts = {"Size": file_size(model.num_bytes), "Licence": model.licence or "not stated"}
    if model.family is None:
        facts = {"Format": "converted when a run starts", **facts}
    else:
        prediction = predicted.get(model.prediction_type, "unknown")
        facts = {"Family": model.family, "Prediction type": prediction, **facts}
    rows = "".join(f"<small>{title}: {escape(text)}</small>" for title, text in facts.items())
    return f'<button type="button" data-location="{escape(str(model.path))}">{escape(name)}{rows}</button>'


def status_html(shown: DownloadStatus, box_id: str) -> str:
    """How far a download is, as HTML."""
    html = ""
    if shown.state == "offered":
        html = f"<p><strong>{escape(shown.name)}</strong>: {escape(shown.size)}.<br>"
        html += f"Licence, as its model card says: {escape(shown.licence)}.</p>"
        html += note_html("Its owner asks for a login before it can be downloaded." if shown.is_gated else "")
    elif shown.state == "running":
        share = f"{shown.done / shown.total:.0%}: " if shown.total else ""
        amount = f"{share}{file_size(shown.done)} of {file_size(shown.total)}"
        html = f"<p>Downloading {escape(shown.name)}. {amount}</p>{note_html(shown.file)}"
    elif shown.state == "done":
        if shown.is_model:  # the text names the flag of the command
            html = f"<p>Downloaded {escape(shown.name)}.</p>"
            html += buttons_html("Use it as the base model", [button_html(shown.name, Path(shown.path))])
        else:
            advice = escape(on_page(shown.text)).replace("\n", "<br>")
            html = f"<p>Downloaded {escape(shown.name)}. {advice}</p>"
    elif shown.state == "failed":
        html = f'<p class="ed-error">{escape(on_page(shown.text)).replace(chr(10), "<br>")}</p>'
    return f'<div id="{box_id}" data-state="{shown.state}" role="status">{html}</div>'
