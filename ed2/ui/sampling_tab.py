"""The tab Sampling: what is drawn while training, and how often."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.page.prompt_table import EMPTY, HEADERS, PromptTable, file_of, table_of
from ed2.errors import Ed2Error
from ed2.registry import SAMPLERS
from ed2.settings.fields import fields
from ed2.settings.files import unquoted
from ed2.ui.context import Context
from ed2.ui.form import Form, short_path
from ed2.ui.wiring import QUIET, SPOKEN, fill, refusal

SPARE_ROWS = 3
USUAL_STEPS, USUAL_SAMPLER = 30, "ddim"


class SamplingTab:
    """The settings of the group Sampling, and a table of the prompts."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        with gr.Row():
            with gr.Column(min_width=300):
                form.add(name for name, spec in fields().items() if spec.group == "sampling")
            with gr.Column(min_width=300):
                usual = (f"usual ({USUAL_SAMPLER})", "")
                self.sampler = gr.Dropdown(
                    [usual, *((name, name) for name in SAMPLERS)], value="", label="Sampler", interactive=True,
                    elem_id="prompts-sampler", info="How noise becomes an image. Saved with the prompts.",
                )  # fmt: skip
                self.steps = gr.Number(
                    USUAL_STEPS, label="Denoising steps", step=1, interactive=True, elem_id="prompts-steps",
                    info="Of each sample: more take longer and look finer. Saved with the prompts.",
                )  # fmt: skip
        self.prompts = gr.Dataframe(
            _with_spare(PromptTable(())), headers=list(HEADERS), datatype="str", type="array", elem_id="prompts",
            label="Prompts, a row each. An empty cell is as usual: seed and size of the run, CFG 1 4 7",
            column_count=len(HEADERS), row_count=SPARE_ROWS, interactive=True, wrap=True, buttons=[],
            column_widths=["326px", "290px", "130px", "130px", "130px", "168px"],
        )  # fmt: skip
        with gr.Row(elem_classes="ed-actions"):
            self.save = gr.Button("Save as my prompts", variant="primary", elem_id="save-prompts-button", min_width=140)
            self.read = gr.Button("Read the file again", elem_id="read-prompts-button", min_width=140)
        self._shown = gr.State("")
        """The file that the table shows, so that what was typed in it is not lost when its field is only passed."""

    def wire(self, filled: Sequence[Any]) -> None:
        """Connect the buttons; `filled` are the events that may set another file."""
        path = self._form.controls["sample_prompts"]
        table = [self.prompts, self.sampler, self.steps]
        asked = [path, self._shown, *table]
        for event in (self.read.click, path.submit):
            fill(event, lambda now, *_: self._read(now), asked, table, [self._shown], is_whole=True, **SPOKEN)
        for event in (path.blur, *(event.then for event in filled)):
            fill(event, lambda *now: self.opened(*now[:2]), asked, table, [self._shown], is_whole=True, **QUIET)
        fill(self.save.click, lambda _, *now: self._save(*now), [path, *table], [path], [self._shown], **SPOKEN)

    @property
    def opened_outputs(self) -> list[Any]:
        """What `opened` gives values for."""
        return [self.prompts, self.sampler, self.steps, self._shown]

    def opened(self, path: object, shown: str = "") -> list[Any]:
        """The prompts of the file that is set, unless they are shown; an empty table where they cannot be read."""
        text = short_path(unquoted(str(path or "").strip()))
        if text == shown:
            return [gr.skip()] * len(self.opened_outputs)
        try:
            return self._table(text)
        except (OSError, ValueError, Ed2Error):
            return [_with_spare(PromptTable(())), "", USUAL_STEPS, text]

    def _table(self, path: str) -> list[Any]:
        file = self._context.require_allowed({"sample_prompts": path})["sample_prompts"]
        table = table_of(Path(str(file)))
        return [_with_spare(table), table.sampler, table.num_steps or USUAL_STEPS, short_path(unquoted(path.strip()))]

    def _read(self, path: str) -> list[Any]:
        try:
            return self._table(path)
        except (OSError, ValueError, Ed2Error) as error:
            raise refusal(f"The prompts cannot be read: {error}") from None

    def _save(self, rows: list[list[object]], sampler: str, steps: float | None) -> tuple[str, str]:
        try:
            table = PromptTable(rows, sampler, None if steps in (None, USUAL_STEPS) else int(steps or 0))
            file = self._context.user.write(self._context.user.prompts.name, file_of(table))
        except (OSError, Ed2Error) as error:
            raise refusal(f"The prompts cannot be saved: {error}") from None
        gr.Info("Saved. They are drawn from the next sampling on.", duration=4)
        return str(file), short_path(str(file))


def _with_spare(table: PromptTable) -> list[list[object]]:
    """The rows, and some empty ones to fill."""
    return [list(row) for row in (*table.rows, *[EMPTY] * SPARE_ROWS)]
