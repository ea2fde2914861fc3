"""Changes of many images in one go: their captions, shown first, and how often those of a folder are trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.images.bulk import ADD_FIRST, KINDS, REPLACE, BulkEdit
from ed2.app.page.dataset_desk import DatasetDesk
from ed2.app.page.workbench import Asked
from ed2.errors import Ed2Error
from ed2.text import counted
from ed2.ui.context import Context
from ed2.ui.grid_html import preview_html
from ed2.ui.html import escape, note_html
from ed2.ui.image_grid import ASK, ImageGrid
from ed2.ui.wiring import QUIET, SPOKEN, Updates, refusal, refusing

SHOWN, SELECTED = "All images that the filters show", "Selected images"
NO_PREVIEW = "Press Preview first."
SAVED_SINCE = "Something else has been saved since. Undo below the caption takes back one change at a time."
OTHER_FILES = "The folder has changed since these images were selected. Select them again."
BULK_HINT = (
    "Add a trigger word, remove a tag, or caption images that have none. Nothing is written before you have seen it."
)
WEIGHT_HINT = (
    "multiply 2 shows each image of a folder twice per epoch, 0.5 every second epoch. It is saved as multiply.txt."
)
NOT_CHOSEN = "Choose a folder first."
NO_NUMBER = "Enter a number, such as 2 or 0.5, or nothing to remove the file."


def numbers_of(desk: DatasetDesk, asked: Asked, scope: str) -> Sequence[int]:
    """The numbers of the images that are meant. Raises Ed2Error."""
    bench = desk.bench
    if bench is None or scope != SELECTED:
        return bench.matching(asked.query) if bench else ()
    if asked.revision != bench.revision:
        raise Ed2Error("Nothing was done", OTHER_FILES)
    if not asked.ticked:
        raise Ed2Error("Nothing was done", "no image is selected.", "Tick the box on the images that you mean.")
    return asked.ticked


class BulkPanel:
    """Adds to, replaces, or removes from the captions of many images; create it inside a `gr.Blocks`."""

    def __init__(self, context: Context, grid: ImageGrid) -> None:
        self._context, self._grid = context, grid
        with gr.Accordion("Edit many captions", open=False, elem_id="bulk-edit"):
            gr.HTML(note_html(BULK_HINT), js_on_load=None)
            self.kind = gr.Radio(list(KINDS), value=ADD_FIRST, label="Change", elem_id="bulk-kind")
            self.scope = gr.Radio([SHOWN, SELECTED], value=SHOWN, label="Images", elem_id="bulk-scope")
            with gr.Row():
                self.text = gr.Textbox(label="Text", max_lines=1, elem_id="bulk-text", min_width=200)
                self.replacement = gr.Textbox(
                    label="Replace with", max_lines=1, elem_id="bulk-replacement", min_width=200, visible=False
                )
            with gr.Row(elem_classes="ed-actions"):
                self.ask = gr.Button("Preview", elem_id="bulk-preview-button", min_width=120)
                self.apply = gr.Button(
                    "Change captions", variant="primary", elem_id="bulk-apply-button", min_width=180, interactive=False
                )
                self.undo = gr.Button("Undo", elem_id="bulk-undo-button", min_width=100, visible=False)
            self.preview = gr.HTML("", elem_id="bulk-preview", js_on_load=None)

    def wire(self) -> None:
        """Connect everything."""
        fields = [self.kind, self.scope, self.text, self.replacement]
        shown = [self.preview, self.apply, self.undo]
        self.kind.change(lambda kind: gr.update(visible=kind == REPLACE), self.kind, self.replacement, **QUIET)
        gr.on([field.change for field in fields], self.forget, None, shown, trigger_mode="always_last", **QUIET)
        for event in (self.ask.click, self.text.submit, self.replacement.submit):
            event(self.plan, [*self._grid.inputs, *fields], shown, js=ASK, **SPOKEN)
        progress = {"show_progress": "minimal", "show_progress_on": self.preview}
        for button, work in ((self.apply, self.change), (self.undo, self.undo_change)):
            self._grid.follow(button.click(work, None, shown, **{**SPOKEN, **progress}))

    def plan(self, request: gr.Request, *held: Any) -> Updates:
        """Show what the change would do to each caption."""
        *shown, kind, scope, text, new = held
        question = self._grid.take(*shown)
        page = self._context.pages.of(request)
        page.bulk_plan = None
        if kind not in KINDS:
            raise refusal(NO_PREVIEW)
        with refusing():
            numbers = numbers_of(self._context.desk, question, scope)
            plan = self._context.desk.plan(numbers, BulkEdit(kind, text, new or ""))
        page.bulk_plan = plan
        label = f"Change {counted(len(plan.changes), 'caption')}"
        return {self.preview: preview_html(plan), self.apply: gr.update(value=label, interactive=bool(plan.changes))}

    def change(self, request: gr.Request) -> Updates:
        """Make the change that the preview shows."""
        page = self._context.pages.of(request)
        plan, page.bulk_plan = page.bulk_plan, None
        if plan is None:
            raise refusal(NO_PREVIEW)
        with refusing():
            page.bulk_record = self._context.desk.apply(plan)
        done = note_html(f"Done: {plan.what}.")
        return {**self._empty(), self.preview: done, self.undo: gr.update(visible=True)}

    def undo_change(self, request: gr.Request) -> Updates:
        """Undo the change that was made here last, unless something else was saved since."""
        desk = self._context.desk
        if desk.edits.last(desk.roots) != self._context.pages.of(request).bulk_record:
            raise refusal(SAVED_SINCE)
        with refusing():
            return {**self._empty(), self.preview: note_html(desk.undo(""))}

    def forget(self, request: gr.Request) -> Updates:
        """Remove a preview that is about another change than the fields."""
        self._context.pages.of(request).bulk_plan = None
        return self._empty()

    def _empty(self) -> Updates:
        apply = gr.update(value="Change captions", interactive=False)
        return {self.preview: "", self.apply: apply, self.undo: gr.update(visible=False)}


class WeightPanel:
    """Sets the weight of a folder; create it inside a `gr.Blocks`."""

    def __init__(self, context: Context, grid: ImageGrid) -> None:
        self._context, self._grid = context, grid
        with gr.Accordion("Weight of each folder", open=False, elem_id="folder-weights") as self.fold:
            gr.HTML(note_html(WEIGHT_HINT), js_on_load=None)
            self.list = gr.HTML("", elem_id="weight-list", js_on_load=None)
            with gr.Row():
                self.folder = gr.Dropdown([], label="Folder", elem_id="weight-folder", interactive=True, min_width=200)
                self.weight = gr.Textbox(
                    "", label="multiply", placeholder="1", max_lines=1, elem_id="weight-value", min_width=120
                )
            with gr.Row(elem_classes="ed-actions"):
                self.set = gr.Button("Set weight", elem_id="set-weight-button", min_width=140)

    def wire(self) -> None:
        """Connect everything."""
        outputs = [self.list, self.folder]
        self.fold.expand(self.show, self.folder, outputs, **QUIET)
        self._grid.follow(self.set.click(self.set_weight, [self.folder, self.weight], None, **SPOKEN))
        for refreshed in self._grid.refreshed:  # an undo may be of a weight too
            refreshed.then(self.show, self.folder, outputs, **QUIET)

    def show(self, chosen: str | None) -> Updates:
        """The folders with their weights."""
        folders = self._context.desk.folders()
        rows = []
        for _, name, count, weight in folders:
            rows.append(f"<tr><td>{escape(name)}</td><td>{counted(count, 'image')}</td><td>{weight:g}</td></tr>")
        head = "<thead><tr><th>Folder</th><th>Images</th><th>multiply</th></tr></thead>"
        table = f'<div class="ed-tags" tabindex="0"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'
        names = [name for _, name, *_ in folders]
        value = chosen if chosen in names else next(iter(names), None)
        return {self.list: table if rows else "", self.folder: gr.update(choices=names, value=value)}

    def set_weight(self, chosen: str | None, text: str) -> None:
        """Write the weight of the chosen folder, or remove its file."""
        folder = self._folder_named(chosen)
        try:
            weight = float(text) if text.strip() else None
        except ValueError:
            raise refusal(NO_NUMBER) from None
        with refusing():
            gr.Info(f"{self._context.desk.set_weight(folder, weight)} Undo restores it.", duration=6)

    def _folder_named(self, chosen: str | None) -> Path:
        for path, name, *_ in self._context.desk.folders():
            if name == chosen:
                return path
        raise refusal(NOT_CHOSEN)
