"""The tab Train: what the run does now, save and sample now, TensorBoard, sharing."""

from typing import Any

import gradio as gr

from ed2.app.page.tensorboard import TensorBoard
from ed2.app.snapshot import RunSnapshot
from ed2.errors import Ed2Error
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.html import model_html
from ed2.ui.live import LivePanel, Seen, changed
from ed2.ui.strip import asked
from ed2.ui.wiring import SPOKEN, refusal

OPEN_WINDOW = """logdir => { const board = window.edBoard = window.open('', '_blank');
  if (board) { board.opener = null; board.document.title = board.document.body.textContent = 'TensorBoard starts …'; }
  return logdir; }"""
"""Done at the press itself: a browser opens no window by itself seconds later."""
OPEN_LINK = """html => { const link = /href="([^"]+)"/.exec(html);
  if (link && window.edBoard) window.edBoard.location = link[1]; }"""
CLOSE_WINDOW = "() => { window.edBoard?.close(); }"


class TrainTab:
    """The monitor of the owner."""

    def __init__(self, context: Context) -> None:
        self._context, self._service = context, context.service
        self.tensorboard = TensorBoard()
        with gr.Row(elem_id="now-buttons", elem_classes="ed-actions"):
            self.save = gr.Button("Save now", interactive=False, elem_id="save-now-button", min_width=120)
            self.sample = gr.Button("Sample now", interactive=False, elem_id="sample-now-button", min_width=120)
            self.board = gr.Button("Open TensorBoard", elem_id="tensorboard-button", min_width=120)
            self.share = gr.Button("Share", elem_id="share-button", min_width=120)
        self.board_answer = gr.HTML("", js_on_load=None, elem_id="tensorboard-answer")
        self.share_answer = gr.HTML("", js_on_load=None, elem_id="share-answer")
        self.model = gr.HTML("", js_on_load=None, elem_id="your-model")
        self.panel = LivePanel(context.service, context.samples)

    @property
    def outputs(self) -> list[Any]:
        """What `updates` gives values for, beside the panel's."""
        return [self.model, self.save, self.sample]

    def updates(self, shown: RunSnapshot, seen: Seen) -> list[Any]:
        """Where the model lies, and the two buttons as the state allows them."""
        model = model_html(shown) if changed(shown, seen)("status") else gr.skip()
        if seen.get("state") == shown.state:
            return [model, gr.skip(), gr.skip()]
        can_ask = shown.state in ("training", "sampling", "paused")
        return [model, gr.update(interactive=can_ask), gr.update(interactive=can_ask)]

    def wire(self, form: Form) -> None:
        """Connect the buttons."""
        self.save.click(lambda: asked(self._service.save_now), None, None, **SPOKEN)
        self.sample.click(lambda: asked(self._service.sample_now), None, None, **SPOKEN)
        slow = {"show_progress": "minimal", "api_visibility": "private", "concurrency_id": "slow"}
        self.share.click(self._share, None, self.share_answer, **slow)
        shown = self.board.click(self._open_board, form.controls["logdir"], self.board_answer, js=OPEN_WINDOW, **slow)
        shown.success(None, self.board_answer, None, js=OPEN_LINK)
        shown.failure(None, None, None, js=CLOSE_WINDOW)

    def _share(self) -> str:
        try:
            with self._context.lock:
                return self._context.sharing.start()
        except Ed2Error as error:
            raise refusal(str(error)) from None

    def _open_board(self, logdir: str) -> str:
        try:
            values = self._context.require_allowed({"logdir": logdir})
            address = self.tensorboard.start(self._context.logdir(values))
        except Ed2Error as error:
            raise refusal(str(error)) from None
        return f'<p>Open TensorBoard: <a href="{address}" target="_blank" rel="noopener">{address}</a></p>'
