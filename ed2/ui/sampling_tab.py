"""The tab Sampling: what is drawn while training, and how often."""

from pathlib import Path

import gradio as gr

from ed2.app.prompt_table import EMPTY, HEADERS, Row, file_of, rows_of
from ed2.errors import Ed2Error
from ed2.settings.fields import fields
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.live import QUIET

SPARE_ROWS = 3


class SamplingTab:
    """The settings of the group Sampling, and a table of the prompts."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        form.add(name for name, spec in fields().items() if spec.group == "sampling")
        gr.Markdown("Prompts, a row each. An empty cell is as usual: seed and size of the run, CFG 1 4 7.")
        self.prompts = gr.Dataframe(
            _with_spare([]), headers=list(HEADERS), datatype="str", type="array", label="Prompts", elem_id="prompts",
            column_count=len(HEADERS), row_count=SPARE_ROWS, interactive=True, wrap=True,
            column_widths=["320px", "220px", "100px", "100px", "100px", "120px"],
        )  # fmt: skip
        with gr.Row():
            self.read = gr.Button("Read the file", elem_id="read-prompts-button", min_width=140)
            self.save = gr.Button("Save as my prompts", variant="primary", elem_id="save-prompts-button", min_width=140)

    def wire(self) -> None:
        """Connect the buttons."""
        path = self._form.controls["sample_prompts"]
        self.read.click(self._read, path, self.prompts, **QUIET)
        self.save.click(self._save, self.prompts, path, **QUIET)

    def _read(self, path: str) -> list[list[str]]:
        try:
            file = self._context.require_allowed({"sample_prompts": path})["sample_prompts"]
            rows = rows_of(Path(str(file)))
        except (OSError, ValueError, Ed2Error) as error:
            raise gr.Error(f"The prompts cannot be read: {error}", duration=8) from None
        return _with_spare(rows)

    def _save(self, rows: list[list[object]]) -> str:
        try:
            file = self._context.user.write(self._context.user.prompts.name, file_of(rows))
        except (OSError, Ed2Error) as error:
            raise gr.Error(f"The prompts cannot be saved: {error}", duration=10) from None
        gr.Info("Saved. They are drawn from the next sampling on.", duration=4)
        return str(file)


def _with_spare(rows: list[Row]) -> list[list[str]]:
    """The rows, and some empty ones to fill."""
    return [list(row) for row in (*rows, *[EMPTY] * SPARE_ROWS)]
