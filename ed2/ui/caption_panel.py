"""Captions made automatically: which images, by which model, and what to do with the drafts."""

from pathlib import Path

import gradio as gr

from ed2.app.background import TaskStatus
from ed2.app.page.auto_captions import MODEL, AutoCaptioner
from ed2.errors import Ed2Error
from ed2.models.files.base_model import locate
from ed2.text import counted
from ed2.ui.context import Context
from ed2.ui.download_panel import DownloadControls
from ed2.ui.edit_panels import SELECTED, SHOWN, numbers_of
from ed2.ui.html import note_html, task_html
from ed2.ui.image_grid import ASK, ImageGrid
from ed2.ui.wiring import QUIET, SPOKEN, TICK, Updates, refusing

HINT = (
    "A model describes each image in a sentence. The sentences are drafts: nothing is written before you save them. "
    "Starting a run ends it."
)
MODEL_HINT = "The model is downloaded once. Look up shows its size and licence before anything is downloaded."
NOT_HERE = "{} is not on this computer. Press Look up, then Download, or enter the folder of a BLIP model."
ALLOWED = "Copy it into a folder that this page may open."
BOX = "caption-result"
LOOKS = {"running": ("busy", "Captioning"), "done": ("good", "Done"), "failed": ("wait", "Ended")}
"""The style and label of each state."""
TICK_SECONDS = 1.0


class CaptionPanel:
    """Captions images in the background; create it inside a `gr.Blocks`."""

    def __init__(self, context: Context, grid: ImageGrid) -> None:
        self._context, self._grid = context, grid
        service = context.service
        self.captioner = AutoCaptioner(context.desk, lambda: service.snapshot().is_active, service.read_libraries)
        with gr.Accordion("Caption images automatically", open=False, elem_id="auto-captions") as self.fold:
            gr.HTML(note_html(HINT), js_on_load=None)
            self.scope = gr.Radio([SHOWN, SELECTED], value=SHOWN, label="Images", elem_id="caption-scope")
            self.replaces = gr.Checkbox(False, label="Also images that have a caption", elem_id="caption-replaces")
            label = "Captioning model (owner/name or folder)"
            self.download = DownloadControls(context, label, MODEL_HINT, MODEL, "caption-")
            with gr.Row(elem_classes="ed-actions"):
                self.start = gr.Button("Caption images", elem_id="caption-images-button", min_width=140)
                self.stop = gr.Button("Stop captioning", elem_id="stop-captioning-button", min_width=140, visible=False)
            self.result = gr.HTML(task_html(BOX, TaskStatus(), LOOKS), js_on_load=None)
            with gr.Row(elem_classes="ed-actions"):
                self.save = gr.Button("Save", elem_id="save-automatic-button", min_width=140, visible=False)
                self.discard = gr.Button("Discard", elem_id="discard-automatic-button", min_width=140, visible=False)
        self._timer = gr.Timer(TICK_SECONDS, active=False)

    def wire(self) -> None:
        """Connect everything; a page that is opened later sees the captioning too."""
        outputs = [self.result, self.start, self.stop, self.save, self.discard, self._timer]
        asked = self._grid.inputs
        self.download.wire(self.fold.expand)
        self.fold.expand(self.show, None, outputs, **QUIET)
        self._timer.tick(self.show, None, outputs, **TICK)
        given = [*asked, self.scope, self.replaces, self.download.name]
        self.start.click(self.begin, given, outputs, js=ASK, **SPOKEN)
        self.stop.click(lambda: self.captioner.stop(), None, None, **QUIET)
        shown = {"js": ASK, "trigger_mode": "always_last", **QUIET}
        self.result.change(self._grid.show, asked, self._grid.outputs, **shown)
        for button, work in ((self.save, self.save_drafts), (self.discard, self.discard_drafts)):
            self._grid.follow(button.click(work, asked, outputs, js=ASK, **SPOKEN))

    def begin(self, asked: str, search: str, sort: str, scope: str, replaces: bool, model: str) -> Updates:
        """Caption the images that are meant."""
        question = self._grid.take(asked, search, sort)
        with refusing():
            place = self._model(model.strip())
            numbers = numbers_of(self._context.desk, question, scope)
            self.captioner.start(numbers, place, replaces=bool(replaces))
        return self.show()

    def _model(self, name: str) -> Path:
        """Where the model is. Raises Ed2Error."""
        place = locate(name) if name else None
        if place is None:
            raise Ed2Error("There is no captioning model", NOT_HERE.format(name or "It"))
        if not self._context.roots.allow(place.path):
            raise Ed2Error("This model cannot be used", "its folder cannot be opened from here.", ALLOWED)
        return place.path

    def save_drafts(self, asked: str, search: str, sort: str) -> Updates:
        """Save the automatic captions, as they were edited."""
        self._grid.take(asked, search, sort)
        desk = self._context.desk
        with refusing():
            gr.Info(desk.save(desk.proposed), duration=6)
        return self.show()

    def discard_drafts(self, asked: str, search: str, sort: str) -> Updates:
        """Forget the automatic captions that were not edited."""
        self._grid.take(asked, search, sort)
        gr.Info(self._context.desk.discard_proposed(), duration=6)
        return self.show()

    def show(self) -> Updates:
        """How far the captioning is, and which buttons make sense."""
        shown, count = self.captioner.shown, len(self._context.desk.proposed)
        is_running = shown.state == "running"
        drafts = counted(count, "automatic caption")
        return {
            self.result: task_html(BOX, shown, LOOKS),
            self.start: gr.update(interactive=not is_running),
            self.stop: gr.update(visible=is_running),
            self.save: gr.update(visible=bool(count), value=f"Save {drafts}"),
            self.discard: gr.update(visible=bool(count), value=f"Discard {drafts}"),
            self._timer: gr.Timer(active=is_running),
        }
