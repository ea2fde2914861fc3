"""Goes through the folders that the page may open: to the images, or to a base model."""

import os
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.checks.base_model import base_problems
from ed2.app.page.folders import Place, Roots, contents, is_folder, is_model, models, places
from ed2.checkpoint.identity import is_ours
from ed2.models.files.base_faults import is_file
from ed2.settings.fields import label_of
from ed2.settings.files import PROGRAM_DIR, unquoted
from ed2.text import file_size
from ed2.ui.context import Context
from ed2.ui.form import Form, short_path
from ed2.ui.wiring import SPOKEN, fill, refusal

NO_FOLDER = "There is no such folder, or it may not be opened from here."
PRESSED = """element.addEventListener('click', event => {
  const pressed = event.target.closest('[data-lies]');
  if (pressed) trigger('click', {lies: pressed.dataset.lies});
})"""
"""What is pressed says where it lies; with a key named path Gradio 6.31 takes it for a file of its own."""


class Browser:
    """The places to begin with, a folder, and what lies in it."""

    def __init__(self, roots: Roots, name: str, places: Callable[[], Iterable[Place]], told: Callable[[Path], str]):
        """Make the controls.

        Args:
            roots: the folders that may be opened.
            name: begins the ids of the controls.
            places: where one can begin.
            told: what lies in a folder, as HTML; it may raise OSError.
        """
        self._roots, self._places, self._told = roots, places, told
        self.place = gr.Textbox(label="Open folder", value=str(next(iter(places())).folder), max_lines=1,
                                elem_id=f"{name}-place", interactive=True)  # fmt: skip
        self.inside = gr.HTML("", elem_id=f"{name}-inside", js_on_load=PRESSED)
        self.up = gr.Button("Up", elem_id=f"{name}-up-button", min_width=100, render=False)

    @property
    def outputs(self) -> list[Any]:
        """What `open` gives values for."""
        return [self.place, self.inside]

    def wire(self) -> None:
        """Connect what is typed, and *Up*."""
        place = [self.place]
        for event in (self.place.submit, self.place.blur):
            # What was typed stays as it is: written anew meanwhile, it would keep out the answer to *Up*.
            event(lambda now: self.open(now)[1], place, self.inside, **SPOKEN)
        fill(self.up.click, lambda now: self.open(str(folder_of(now).parent)), place, place, [self.inside], **SPOKEN)

    def open(self, place: str) -> tuple[Any, Any]:
        """The folder, and what lies in it; a refusal leaves the page as it is."""
        folder = folder_of(place)
        try:
            told = self._told(self.allowed(folder))
        except OSError:
            gr.Warning(NO_FOLDER, duration=6)
            return gr.skip(), gr.skip()
        begins = [entry(place.name, place.folder) for place in self._places()]
        return str(folder), f"{listed('Begin at', begins)}{told}"

    def pressed(self, event: gr.EventData) -> tuple[Any, Any]:
        """Open the folder that was pressed."""
        return self.open(str(pressed_path(event)))

    def allowed(self, path: Path) -> Path:
        """A path that was typed or pressed. Raises OSError where it is outside of what may be opened."""
        if not self._roots.allow(path):
            raise PermissionError(NO_FOLDER)
        return path


def folder_of(place: str) -> Path:
    """The folder that a person has typed or pasted; what is no whole path counts from the program's folder."""
    return PROGRAM_DIR / os.path.expanduser(unquoted(place.strip()))  # noqa: PTH111 -- pathlib raises for ~nobody


def entry(name: str, path: Path, more: str = "") -> str:
    """Something to press: a folder to open, or a model to take."""
    told = f"<br><small>{escape(more)}</small>" if more else ""
    return f'<li><button type="button" data-lies="{escape(str(path))}">{escape(name)}{told}</button></li>'


def listed(name: str, buttons: Iterable[str]) -> str:
    """Buttons in a row under a heading; nothing where there are none."""
    items = "".join(buttons)
    return f'<p class="ed-note">{name}</p><ul class="ed-folders" aria-label="{name}">{items}</ul>' if items else ""


def pressed_path(event: gr.EventData) -> Path:
    """What was pressed; it comes from a browser and is not believed. Raises gradio's error where it is none."""
    path = getattr(event, "lies", None)
    if not isinstance(path, str):
        raise refusal(NO_FOLDER)
    return Path(path)


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
