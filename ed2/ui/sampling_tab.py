"""The tab Sampling: what is drawn while training, and how often."""

import gradio as gr

from ed2.errors import Ed2Error
from ed2.sampling.prompts import MAX_FILE_BYTES
from ed2.settings.fields import fields
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.live import QUIET


class SamplingTab:
    """The settings of the group Sampling, and an editor for the prompts."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        form.add(name for name, spec in fields().items() if spec.group == "sampling")
        self.prompts = gr.Textbox(
            label="Prompts", info="One a line. Lines that begin with # are left out.", lines=8, max_lines=30,
            elem_id="prompts", interactive=True,
        )  # fmt: skip
        with gr.Row():
            self.read = gr.Button("Read the file", elem_id="read-prompts-button", min_width=140)
            self.save = gr.Button("Save as my prompts", variant="primary", elem_id="save-prompts-button", min_width=140)

    def wire(self) -> None:
        """Connect the buttons."""
        path = self._form.controls["sample_prompts"]
        self.read.click(self._read, path, self.prompts, **QUIET)
        self.save.click(self._save, self.prompts, path, **QUIET)

    def _read(self, path: str) -> str:
        try:
            file = self._context.require_allowed({"sample_prompts": path})["sample_prompts"]
            with open(str(file), "rb") as stream:  # noqa: PTH123
                return stream.read(MAX_FILE_BYTES).decode("utf-8-sig", "replace")
        except (OSError, Ed2Error) as error:
            raise gr.Error(f"The prompts cannot be read: {error}", duration=8) from None

    def _save(self, text: str) -> str:
        try:
            file = self._context.user.write(self._context.user.prompts.name, text.strip()[:MAX_FILE_BYTES] + "\n")
        except OSError as error:
            raise gr.Error(f"The prompts cannot be saved: {error}", duration=8) from None
        gr.Info("Saved. They are drawn from the next sampling on.", duration=4)
        return str(file)
