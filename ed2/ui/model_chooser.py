"""Chooses a base model among the folders of the computer and the checkpoints of its runs."""

from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.checks.base_model import base_problems
from ed2.app.page.places import Place, contents, is_folder, is_model, models, places
from ed2.checkpoint.origin import is_ours
from ed2.models.files.base_faults import is_file
from ed2.text import file_size
from ed2.ui.browser import Browser, entry, folder_of, listed, pressed_path
from ed2.ui.context import Context
from ed2.ui.form import Form, short_path
from ed2.ui.late import fill
from ed2.ui.live import SPOKEN, refusal
from ed2.ui.words import label_of

NO_MODELS = "No model lies in this folder: a .safetensors file, or a folder that holds model_index.json."
BEGINS_ANEW = (
    f"This checkpoint of a run is now the base model, and “{label_of('weights_only')}” is set: training begins anew at "
    f"step 0. Give it a {label_of('project_name')} of its own."
)


class ModelChooser:
    """A fold below the field of the base model."""

    def __init__(self, context: Context) -> None:
        self._context = context
        with gr.Accordion("Choose a base model", open=False, elem_id="choose-model") as self.fold:
            self.browser = Browser(context.roots, "model", self._places, self._told)
            self.browser.up.render()

    def wire(self, form: Form) -> list[Any]:
        """Connect everything; gives the events that change the form."""
        self.browser.wire()
        base = [form.controls[name] for name in ("resume_ckpt", "weights_only")]
        place, inside = self.browser.outputs
        fill(self.fold.expand, self._opened, [base[0], place], [place], [inside], **SPOKEN)
        return [self.browser.inside.click(self._pressed, None, [*self.browser.outputs, *base], **SPOKEN)]

    def _opened(self, base: str, place: str) -> tuple[Any, Any]:
        """Begin where the present model lies, if that is on this computer."""
        present = folder_of(base)
        is_here = bool(base.strip()) and self._context.roots.allow(present) and (is_file(present) or is_folder(present))
        return self.browser.open(str(present.parent) if is_here else place)

    def _places(self) -> list[Place]:
        runs = self._context.logdir(self._context.form_values())
        own = [Place("My runs", runs)] if self._context.roots.allow(runs) and is_folder(runs) else []
        return [*places(self._context.roots), *own]

    def _told(self, folder: Path) -> str:
        found = [path for path in models(folder) if self._context.roots.allow(path)]  # a link may lead out
        taken = listed("Models", (entry(path.name, path, _more_of(path, folder)) for path in found))
        folders = [path for name in contents(folder).folders if (path := folder / name) not in found]
        return (taken or f'<p class="ed-note">{NO_MODELS}</p>') + listed(
            "Folders", (entry(path.name, path) for path in folders)
        )

    def _pressed(self, event: gr.EventData) -> list[Any]:
        """Open a folder, or take a model."""
        path = pressed_path(event)
        if not self._context.roots.allow(path) or not is_model(path):
            return [*self.browser.open(str(path)), gr.skip(), gr.skip()]
        if problems := base_problems(str(path)):
            raise refusal(" ".join(map(str, problems)))
        if is_ours(path):
            gr.Info(BEGINS_ANEW, duration=8)
        return [gr.skip(), gr.skip(), short_path(str(path)), True if is_ours(path) else gr.skip()]


def _more_of(path: Path, folder: Path) -> str:
    """Of which run a checkpoint is, or how large a file is."""
    if path.parent != folder:
        return path.parent.parent.name
    return file_size(path.stat().st_size) if path.is_file() else "model folder"
