"""The Dataset tab: choose a folder, see what is in it and how it will be cropped, edit captions."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.checks.check import CheckResult, check_dataset
from ed2.app.images.scanning import scan_dataset
from ed2.app.page.folders import contents, is_folder, places
from ed2.data.example import FindingKind
from ed2.data.report import HEADINGS
from ed2.errors import Ed2Error, Problem
from ed2.settings.fields import fields
from ed2.settings.files import with_defaults
from ed2.text import counted
from ed2.ui.caption_editor import CaptionEditor
from ed2.ui.context import Context
from ed2.ui.folder_browser import NO_FOLDER, FolderBrowser, folder_of
from ed2.ui.form import Form, defaults
from ed2.ui.html import (
    bars_html,
    button_html,
    buttons_html,
    empty_html,
    escape,
    list_html,
    note_html,
    on_page,
    problems_html,
)
from ed2.ui.wiring import SLOW, SPOKEN, Updates, fill, refusal

NEEDED_GROUPS = ("data", "run", "model", "validation")
MAX_PROBLEMS = 20
MAX_NAMES = 3
NOT_CHECKED = "Press Check to read every image. Nothing is changed."
STALE = "These results are out of date: the folder or an image setting has changed. Press Check again."


class DatasetTab:
    """The images that the form names."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        self._accepted: list[list[Any]] = []
        form.add(["data_root"])
        with gr.Accordion("Choose a folder", open=False):
            self.browser = FolderBrowser(context.roots, "browse", lambda: places(context.roots), describe_folder)
            with gr.Row(elem_classes="ed-actions"):
                self.browser.up.render()
                self.take = gr.Button("Use this folder", elem_id="browse-take-button", min_width=140)
        with gr.Row(elem_classes="ed-actions"):
            self.check = gr.Button("Check", variant="primary", elem_id="check-button", min_width=140)
        self.report = gr.HTML(empty_html(NOT_CHECKED), elem_id="dataset-report", js_on_load=None)
        self.captions = CaptionEditor(context)

    def wire(self) -> None:
        """Connect everything, once every control of the form is made."""
        inputs, captions = self._form.inputs, self.captions
        slow = {**SLOW, "concurrency_id": "check"}
        self.checked = self.check.click(self.check_images, inputs, [self.report, captions.column], **slow)
        edits = []
        for button, change in ((captions.save, captions.save_caption), (captions.undo, captions.undo_caption)):
            handler = self.editing(change)
            edits.append(button.click(handler, [captions.image, captions.caption, *inputs], self.report, **slow))
        captions.wire()
        for event in (self.checked, *edits):
            self.show_after(event)
        image_settings = self._image_settings
        gr.on([control.change for control in image_settings], None, image_settings, None, js="ed.showStale")
        self.browser.wire()
        self.browser.inside.click(self.browser.open_pressed, None, self.browser.outputs, **SPOKEN)
        folders = self._form.controls["data_root"]
        fill(self.take.click, self.use_folder, [self.browser.place, folders], [folders], **SPOKEN)

    def show_after(self, event: Any) -> None:
        """Show the checked images once this has ended."""
        shown = self.captions.show_after(event)
        shown.then(None, self._image_settings, None, js="ed.showStale")

    @property
    def _image_settings(self) -> list[Any]:
        """The controls that say which images there are and how they are cropped."""
        return [control for name, control in self._form.controls.items() if fields()[name].group == "data"]

    @property
    def opened_outputs(self) -> list[Any]:
        """What `opened` changes."""
        return [*self.browser.outputs, self.report, self.captions.column]

    def opened(self) -> Updates:
        """What a page that opens shows: the first folder to browse, and the results of the last check."""
        return {**self.browser.open(str(places(self._context.roots)[0].folder)), **self._results()}

    def use_folder(self, _: gr.Request, place: str, __: str) -> Updates:
        """Put the folder of the browser into the form."""
        folder = folder_of(place)
        if not self._context.roots.allow(folder) or not is_folder(folder):
            gr.Warning(NO_FOLDER, duration=6)
            return gr.skip()
        return {self._form.controls["data_root"]: str(folder)}

    def check_images(self, *raw: Any, progress: gr.Progress = gr.Progress()) -> Updates:  # noqa: B008
        """Read every image and show the results."""
        try:
            self._scan(raw, progress)
        except Ed2Error as error:
            self._context.checked = None
            html = problems_html(error.problems, box_id="dataset-problems")
            return {self.report: html, self.captions.column: gr.update(visible=False)}
        return self._results()

    def editing(self, change: Callable[[str | None, str], str]) -> Callable[..., str]:
        """A handler that changes a caption, checks the folder again, and says what was done."""

        def edit(path: str | None, text: str, *raw: Any) -> str:
            done = change(path, text)
            try:
                self._scan(raw)
            except Ed2Error as error:
                raise refusal(str(error)) from None
            gr.Info(done, duration=6)
            return str(self._results()[self.report])

        return edit

    def _results(self) -> Updates:
        """What the last check found."""
        if self._context.checked is None:
            return {}
        html = stale_html(self._accepted) + report_html(self._context.checked)
        return {self.report: html, self.captions.column: gr.update(visible=True)}

    def _scan(self, raw: Sequence[Any], progress: gr.Progress | None = None) -> None:
        values = self._form.read(raw)
        needed = {name: value for name, value in values.items() if _is_needed(name)}
        settings = with_defaults({**defaults(), **self._context.require_allowed(needed)})
        descriptions = ["Reading images"]

        def report(done: int, total: int) -> None:
            if progress is not None and total:
                progress((done, total), desc=descriptions[-1], unit="images")

        def outline(found: object) -> None:
            descriptions.append(str(found))

        dataset = scan_dataset(settings, progress=report, on_outline=outline)
        self._context.checked = check_dataset(settings, dataset)
        after_reload = self._form.show(values)
        held = zip(self._form.inputs, raw, strict=True)
        of_images = set(self._image_settings)
        self._accepted = [[value, after_reload[control]] for control, value in held if control in of_images]


def _is_needed(name: str) -> bool:
    return fields()[name].group in NEEDED_GROUPS and name != "seed"


def describe_folder(folder: Path) -> str:
    """How many images are in a folder, and its folders. Raises OSError."""
    found = contents(folder)
    folders = buttons_html("Folders", [button_html(name, folder / name) for name in found.folders])
    return note_html(f"{counted(found.num_images, 'image')} in this folder") + folders


def stale_html(accepted: Sequence[Sequence[Any]]) -> str:
    """A note that the results are out of date, hidden until the browser finds that they are.

    Args:
        accepted: what each image setting may hold for the results to be valid: as checked, or as after a reload.
    """
    asked = escape(json.dumps(accepted))
    return f'<p class="ed-stale" role="status" data-asked="{asked}" hidden>{STALE}</p>'


def report_html(checked: CheckResult) -> str:
    """How many images can be used, what is worth knowing, the images per bucket, and what is wrong."""
    found = checked.as_object()
    used, unusable = len(found["images"]), len(checked.dataset.problems)
    epochs = counted(checked.settings.run.max_epochs, "epoch")
    per_epoch, total = counted(found["steps_per_epoch"], "step"), counted(found["total_steps"], "step")
    counts = (
        f"<p><strong>{counted(used, 'image')} can be used, {counted(unusable, 'file')} cannot.</strong><br>"
        f"{per_epoch} per epoch, {total} in {epochs}.</p>"
    )
    buckets = [(f"{bucket['size'][0]} x {bucket['size'][1]}", bucket["images"]) for bucket in found["buckets"]]
    chart = f"<h3>Images per bucket</h3>{bars_html(buckets, 'Images per bucket')}"
    html = f'<div class="ed-card">{counts}{_notes_html(checked)}{chart}</div>'
    of_model = {problem.what for problem in checked.model_problems}  # not about the images: listed as notes
    problems = [Problem(p["path"], p["what"], p["fix"]) for p in found["problems"] if p["what"] not in of_model]
    if not problems:
        return html
    more = len(problems) - MAX_PROBLEMS
    if more > 0:
        problems = [*problems[:MAX_PROBLEMS], Problem(None, f"and {more:,} more.")]
    return html + problems_html(problems, box_id="dataset-problems")


def _notes_html(checked: CheckResult) -> str:
    """What is worth knowing and is not a problem, grouped by kind with a few names."""
    kinds: dict[FindingKind, list[str]] = {}
    for note in checked.dataset.notes:
        if note.path is None or note.kind == "sidecar":
            continue
        text = str(note.path)
        if note.kind not in HEADINGS:
            text = f"{note.path}: {note.what} {note.fix}".strip()
        kinds.setdefault(note.kind, []).append(text)
    items = []
    for kind, texts in kinds.items():
        names = ", ".join(texts[:MAX_NAMES])
        if len(texts) > MAX_NAMES:
            names += f" and {len(texts) - MAX_NAMES:,} more"
        heading = HEADINGS.get(kind, "Notes")
        items.append(f"<strong>{escape(heading)} ({len(texts):,})</strong>: {escape(names)}")
    items += [escape(on_page(note)) for note in (*map(str, checked.model_problems), *checked.caption_notes())]
    return list_html(items, "ed-note") if items else ""
