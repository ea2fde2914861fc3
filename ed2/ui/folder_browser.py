"""Browse the folders that the page may open: to the images, or to a base model."""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.checks.start_checks import base_problems
from ed2.app.page.folders import Place, Roots, contents, is_folder, is_model, models, places
from ed2.checkpoint.identity import is_ours
from ed2.errors import SettingsError
from ed2.models.files.found import public_name
from ed2.settings.fields import label_of
from ed2.settings.files import PROGRAM_DIR, unquoted
from ed2.small_files import is_file
from ed2.text import file_size
from ed2.ui.context import Context
from ed2.ui.download_panel import DownloadPanel
from ed2.ui.form import Form, short_path
from ed2.ui.html import button_html, buttons_html, note_html
from ed2.ui.wiring import SPOKEN, Updates, Values, fill, refusal

NO_FOLDER = "There is no such folder, or it cannot be opened from here."
NO_MODELS = "No models in this folder. A model is a .safetensors or .ckpt file, or a folder with model_index.json."
STARTS_OVER = (
    f"The base model is now a checkpoint of a run, and “{label_of('weights_only')}” is on: training starts at step 0. "
    "Give the new run its own project name."
)


class FolderBrowser:
    """Starting points, a folder, and its content."""

    def __init__(
        self, roots: Roots, name: str, places: Callable[[], Iterable[Place]], describe: Callable[[Path], str]
    ) -> None:
        """Make the controls.

        Args:
            roots: the folders that may be opened.
            name: begins the ids of the controls.
            places: where one can start.
            describe: what is in a folder, as HTML; it may raise OSError.
        """
        self._roots, self._places, self._describe = roots, places, describe
        first = str(next(iter(places())).folder)
        self.place = gr.Textbox(first, label="Folder", max_lines=1, elem_id=f"{name}-place", interactive=True)
        self.inside = gr.HTML("", elem_id=f"{name}-inside", js_on_load="ed.watchFolders(element, trigger)")
        self.up = gr.Button("Up", elem_id=f"{name}-up-button", min_width=100, render=False)

    @property
    def outputs(self) -> list[Any]:
        """What `open` changes."""
        return [self.place, self.inside]

    def wire(self) -> None:
        """Connect the text box and *Up*."""

        def open_typed(place: str) -> Updates:
            # What was typed is left as it is: written again meanwhile, it would keep out the answer to *Up*.
            inside = self.open(place).get(self.inside, gr.skip())
            return {self.inside: inside}

        def open_parent(_: gr.Request, held: Values) -> Updates:
            return self.open(str(folder_of(held[self.place]).parent))

        for event in (self.place.submit, self.place.blur):
            event(open_typed, self.place, self.inside, **SPOKEN)
        fill(self.up.click, open_parent, [self.place], [self.place], [self.inside], **SPOKEN)

    def open(self, place: str) -> Updates:
        """Show a folder and what is in it; a refusal leaves the page as it is."""
        folder = folder_of(place)
        try:
            inside = self._describe(self._allowed(folder))
        except OSError:
            gr.Warning(NO_FOLDER, duration=6)
            return {}
        starts = [button_html(place.name, place.folder) for place in self._places()]
        return {self.place: str(folder), self.inside: f"{buttons_html('Start from', starts)}{inside}"}

    def open_pressed(self, event: gr.EventData) -> Updates:
        """Open the folder that was pressed."""
        return self.open(str(pressed_path(event))) or gr.skip()

    def _allowed(self, path: Path) -> Path:
        """A path that was typed or pressed. Raises OSError if it is outside of what may be opened."""
        if not self._roots.allow(path):
            raise PermissionError(NO_FOLDER)
        return path


class ModelBrowser:
    """The base models in the folders of the computer, and the checkpoints of its runs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        with gr.Accordion("Choose a base model", open=False, elem_id="choose-model") as self.fold:
            self.downloads = DownloadPanel(context)
            self.browser = FolderBrowser(context.roots, "model", self._places, self.describe)
            with gr.Row(elem_classes="ed-actions"):
                self.browser.up.render()

    def wire(self, form: Form) -> list[Any]:
        """Connect everything.

        Returns:
            The events that change the form.
        """
        self.browser.wire()
        self._base, self._weights_only = form.controls["resume_ckpt"], form.controls["weights_only"]
        place, inside = self.browser.outputs
        fill(self.fold.expand, self.open, [self._base, place], [place], [inside], **SPOKEN)
        self.downloads.wire_base(self.fold.expand, self._base)
        outputs = [place, inside, self._base, self._weights_only, self.fold]
        lists = (inside, self.downloads.found, self.downloads.result)
        return [shown.click(self.press, None, outputs, **SPOKEN) for shown in lists]

    def open(self, _: gr.Request, held: Values) -> Updates:
        """Start where the present model is, if that is on this computer."""
        base, place = held[self._base], held[self.browser.place]
        present = folder_of(base)
        if base.strip() and self._context.roots.allow(present) and (is_file(present) or is_folder(present)):
            return self.browser.open(str(present.parent))
        return self.browser.open(place)

    def press(self, event: gr.EventData) -> Updates:
        """Open the folder or choose the model that was pressed."""
        path = pressed_path(event)
        if not self._context.roots.allow(path) or not is_model(path):
            return self.browser.open(str(path)) or gr.skip()
        values = {**self._context.form_values(), "resume_ckpt": str(path)}
        problems = [problem for problem in base_problems(values) if problem.path == "resume_ckpt"]
        if problems:
            raise refusal(" ".join(map(str, problems)))
        updates: Updates = {self._base: short_path(public_name(path) or str(path)), self.fold: gr.update(open=False)}
        if is_ours(path):
            gr.Info(STARTS_OVER, duration=8)
            updates[self._weights_only] = True
        return updates

    def describe(self, folder: Path) -> str:
        """The models and folders in a folder, as HTML. Raises OSError."""
        found = [path for path in models(folder) if self._context.roots.allow(path)]  # a link may lead out
        folders = [path for name in contents(folder).folders if (path := folder / name) not in found]
        models_html = buttons_html("Models", [button_html(path.name, path, _origin(path, folder)) for path in found])
        folders_html = buttons_html("Folders", [button_html(path.name, path) for path in folders])
        return (models_html or note_html(NO_MODELS)) + folders_html

    def _places(self) -> list[Place]:
        starts = places(self._context.roots)
        with contextlib.suppress(SettingsError):
            runs = self._context.logdir(self._context.form_values())
            if is_folder(runs):
                starts.append(Place("My runs", runs))
        return starts


def folder_of(place: str) -> Path:
    """The folder that a person typed or pasted; a relative path starts at the program's folder."""
    return PROGRAM_DIR / os.path.expanduser(unquoted(place.strip()))  # noqa: PTH111 -- pathlib raises for ~nobody


def pressed_path(event: gr.EventData) -> Path:
    """What was pressed; it comes from a browser and is not trusted. Raises gradio's error if it is not a path."""
    path = getattr(event, "location", None)
    if not isinstance(path, str):
        raise refusal(NO_FOLDER)
    return Path(path)


def _origin(path: Path, folder: Path) -> str:
    """The run of a checkpoint, or the size of a file."""
    if path.parent != folder:
        return path.parent.parent.name
    return file_size(path.stat().st_size) if path.is_file() else "model folder"
