"""How often the images of each folder are shown: its `multiply`."""

from pathlib import Path

import gradio as gr

from ed2.errors import Ed2Error
from ed2.text import counted
from ed2.ui.context import Context
from ed2.ui.html import escape, note_html
from ed2.ui.image_grid import ImageGrid
from ed2.ui.wiring import QUIET, SPOKEN, Updates, refusal

HINT = "multiply 2 shows each image of a folder twice per epoch, 0.5 every second epoch. It is saved as multiply.txt."
NOT_CHOSEN = "Choose a folder first."
NO_NUMBER = "Enter a number, such as 2 or 0.5, or nothing to remove the file."


class WeightPanel:
    """Sets the weight of a folder; create it inside a `gr.Blocks`."""

    def __init__(self, context: Context, grid: ImageGrid) -> None:
        self._context, self._grid = context, grid
        with gr.Accordion("Weight of each folder", open=False, elem_id="folder-weights") as self.fold:
            gr.HTML(note_html(HINT), js_on_load=None)
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
        try:
            gr.Info(f"{self._context.desk.set_weight(folder, weight)} Undo restores it.", duration=6)
        except Ed2Error as error:
            raise refusal(str(error)) from None

    def _folder_named(self, chosen: str | None) -> Path:
        for path, name, *_ in self._context.desk.folders():
            if name == chosen:
                return path
        raise refusal(NOT_CHOSEN)
