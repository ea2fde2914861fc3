"""The tab Dataset: choose a folder, see what is in it and how it will be cropped, mend captions."""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.checks.check import looked_at
from ed2.app.images.scanning import scan_dataset
from ed2.app.page.folders import contents, is_folder, places
from ed2.data.example import Example
from ed2.data.walk import escape_undecodable
from ed2.errors import Ed2Error, Problem, ProblemsError
from ed2.settings.fields import fields
from ed2.settings.files import with_defaults
from ed2.text import counted
from ed2.ui.caption_drafts import CHOOSE, KEEP, MARK, PRESSED, SHOW, CaptionDrafts
from ed2.ui.context import Context
from ed2.ui.dataset_report import STALE, report_html, stale_html
from ed2.ui.folder_browser import NO_FOLDER, Browser, entry, folder_of, listed
from ed2.ui.form import Form, defaults
from ed2.ui.html import empty_html, problems_html
from ed2.ui.wiring import QUIET, SPOKEN, fill, refusal

PER_PAGE = 24
NEEDED_GROUPS = ("data", "run", "model", "validation")
NOTHING_SAVED = "Nothing was saved here: the box shows the caption of the file."
NOT_CHECKED = "Press Check: every image is read, and nothing is changed."


class DatasetTab:
    """The images that the form names."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form, self._drafts = context, form, CaptionDrafts()
        self._asked: list[list[Any]] = []
        form.add(["data_root"])
        with gr.Accordion("Choose a folder", open=False):
            self.browser = Browser(context.roots, "browse", lambda: places(context.roots), _told_of)
            with gr.Row(elem_classes="ed-actions"):
                self.browser.up.render()
                self.take = gr.Button("Use this folder", elem_id="browse-take-button", min_width=140)
        with gr.Row(elem_classes="ed-actions"):
            self.check = gr.Button("Check", variant="primary", elem_id="check-button", min_width=140)
        self.report = gr.HTML(empty_html(NOT_CHECKED), elem_id="dataset-report", js_on_load=None)
        with gr.Column(visible=False) as self.editor:
            with gr.Row():
                self.page = gr.Number(1, label="Page", step=1, precision=0,
                                      elem_id="dataset-page", min_width=120, scale=1)  # fmt: skip
                self.image = gr.Dropdown([], label="Image", elem_id="caption-picture", interactive=True,
                                           min_width=240, scale=3)  # fmt: skip
            self.caption = gr.Textbox(label="Caption of this image", lines=2, elem_id="caption-text", interactive=True)
            with gr.Row(elem_classes="ed-actions"):
                self.save = gr.Button("Save caption", elem_id="save-caption-button", min_width=140)
                self.undo = gr.Button("Undo", elem_id="undo-caption-button", min_width=100)
            self.unsaved = gr.HTML("", elem_id="caption-unsaved", js_on_load=None)
            self.thumbs = gr.HTML("", elem_id="dataset-pictures", js_on_load=CHOOSE)

    def wire(self) -> None:
        """Connect everything, once every control of the form is made."""
        inputs = self._form.inputs
        slow = {"show_progress": "minimal", "api_visibility": "private", "concurrency_id": "check"}
        self.checked = self.check.click(self._check, inputs, self._checked_outputs, **slow)
        typed = [self.image, self.caption]
        # not its event `input`, which tells of keys alone and not of what is pasted (Gradio 6.31)
        self.caption.change(self._typed, typed, self.unsaved, js=KEEP, trigger_mode="always_last", **QUIET)
        self.caption.blur(self._typed, typed, self.unsaved, js=KEEP, trigger_mode="multiple", **QUIET)
        self.image.change(None, typed, self.caption, js=SHOW)
        self.image.change(None, self.image, None, js=MARK)
        self.thumbs.click(None, typed, typed, js=PRESSED)
        pressed = ((self.save, self._save), (self.undo, self._undo))
        edits = [button.click(change, [*typed, *inputs], self.report, **slow) for button, change in pressed]
        self._turned(self.page.change, self._turn_to)
        for event in (self.checked, *edits):
            self.show_after(event)
        gr.on([control.change for control in self._of_data], None, self._of_data, None, js=STALE)
        self._wire_folders()

    @property
    def _of_data(self) -> list[Any]:
        """The controls that say which images there are and how they are cut."""
        return [control for name, control in self._form.controls.items() if fields()[name].group == "data"]

    def show_after(self, event: Any) -> None:
        """Show what was found once this has ended: it may take long, and what is chosen and typed meanwhile stays."""
        shown = self._turned(event.success, self._again)
        shown.then(None, [self.image, self.caption], None, js=KEEP)
        shown.then(None, self._of_data, None, js=STALE)

    def _turned(self, event: Any, answer: Callable[..., list[Any]]) -> Any:
        edited = [self.page, self.image, self.caption]
        return fill(event, answer, edited, edited, [self.thumbs, self.image, self.unsaved], is_whole=True, **QUIET)

    def _wire_folders(self) -> None:
        self.browser.wire()
        self.browser.inside.click(self.browser.pressed, None, self.browser.outputs, **SPOKEN)
        folders = self._form.controls["data_root"]
        inputs = [self.browser.place, folders]
        fill(self.take.click, lambda now, _: [self._take(now)], inputs, [folders], **SPOKEN)

    @property
    def _checked_outputs(self) -> list[Any]:
        return [self.report, self.editor]

    @property
    def opened_outputs(self) -> list[Any]:
        """What `opened` gives values for."""
        return [*self.browser.outputs, *self._checked_outputs]

    def opened(self) -> list[Any]:
        """The first folder of the browser and what was found last, for a page that opens."""
        return [*self.browser.open(str(places(self._context.roots)[0].folder)), *self._found()]

    def _take(self, place: str) -> Any:
        folder = folder_of(place)
        if not self._context.roots.allow(folder) or not is_folder(folder):
            gr.Warning(NO_FOLDER, duration=6)
            return gr.skip()
        return str(folder)

    def _check(self, *raw: Any, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        try:
            self._scan(raw, progress)
        except Ed2Error as error:
            self._context.checked = None
            problems = error.problems if isinstance(error, ProblemsError) else [Problem(None, str(error))]
            told = problems_html(problems, box_id="dataset-problems")
            return [told, gr.update(visible=False)]
        return self._found()

    def _found(self) -> list[Any]:
        """What the last check found, as the page shows it."""
        if self._context.checked is None:
            return [gr.skip()] * len(self._checked_outputs)
        return [self._report_html(), gr.update(visible=True)]

    def _scan(self, raw: Sequence[Any], progress: Any = None) -> None:
        values = self._form.values_of(raw)
        needed = {n: v for n, v in values.items() if fields()[n].group in NEEDED_GROUPS and fields()[n].name != "seed"}
        settings = with_defaults({**defaults(), **self._context.require_allowed(needed)})

        outlines: list[str] = ["Reading the images"]

        def tell(done: int, total: int) -> None:
            if progress is not None and total:
                progress((done, total), desc=outlines[-1], unit="images")

        dataset = scan_dataset(settings, progress=tell, on_outline=lambda found: outlines.append(str(found)))
        self._context.checked = looked_at(settings, dataset)
        forms = zip(values, raw, self._form.shown(values), strict=True)
        self._asked = [[held, kept] for name, held, kept in forms if fields()[name].group == "data"]

    def _examples(self) -> Sequence[Example]:
        return self._context.checked.dataset.examples if self._context.checked else ()

    def _turn_to(self, page: float | None, path: str | None, text: str | None) -> list[Any]:
        """Turn the page: its number, the image and its caption for `fill`; the tiles, the choices, what is not saved.

        The number becomes that of the page shown. An image that is on it stays chosen, and what is typed stays.
        """
        examples = self._examples()
        first = self._first(page)
        part = examples[first : first + PER_PAGE]
        choices = [(f"{first + n + 1}: {example.name}", _key(example)) for n, example in enumerate(part)]
        tiles = "".join(self._tile(first + n, example) for n, example in enumerate(part))
        number, pages = first // PER_PAGE + 1, max(1, -(-len(examples) // PER_PAGE))
        html = f'<p class="ed-note">Page {number} of {pages}</p><ul class="ed-grid ed-thumbs">{tiles}</ul>'
        chosen = next((example for example in part if _key(example) == path), part[0] if part else None)
        is_left = chosen is not None and _key(chosen) == path and self._drafts.hold(chosen)
        return [
            gr.skip() if number == page else number,
            gr.update(value=_key(chosen) if chosen else None),
            gr.skip() if is_left else self._drafts.shown(chosen) if chosen else "",
            html if part else "",
            gr.update(choices=choices),
            self._unsaved_html(),
        ]

    def _again(self, page: float | None, path: str | None, text: str | None) -> list[Any]:
        """What is shown after another look at the folder: the page with the chosen image, if there still is one."""
        place = next((n for n, example in enumerate(self._examples()) if _key(example) == path), None)
        shown = page if place is None else place // PER_PAGE + 1
        number, *others = self._turn_to(shown, path, text)
        return [shown if number == gr.skip() and shown != page else number, *others]

    def _first(self, page: float | None) -> int:
        pages = max(1, -(-len(self._examples()) // PER_PAGE))
        return (min(pages, max(1, int(page or 1))) - 1) * PER_PAGE

    def _tile(self, number: int, example: Example) -> str:
        address = self._context.thumbs.address(example.path, example.crop)
        size, bucket = (f"{w} x {h}" for w, h in (example.size, example.bucket))
        name, caption = escape(example.name), escape(example.caption or "no caption")
        begin = escape(self._drafts.shown(example))
        return (
            f'<li data-image="{escape(_key(example))}" data-text="{begin}">'
            f'<button type="button" aria-label="Edit {name}" aria-pressed="false">'
            f'<img src="{address}" alt="{name}, cropped to {bucket}" loading="lazy"></button>'
            f'<div class="ed-caption"><p class="ed-text" title="{caption}"><strong>{number + 1}</strong> {caption}</p>'
            f"<small>{name}<br>{size} → {bucket}</small></div></li>"
        )

    def _typed(self, path: str | None, text: str) -> str:
        if example := self._example(path):
            self._drafts.keep(example, text)
        return self._unsaved_html()

    def _unsaved_html(self) -> str:
        return self._drafts.as_html(self._examples())

    def _example(self, path: object) -> Example | None:
        """The image of the last check at this path: another browser may have checked another folder since."""
        return next((example for example in self._examples() if _key(example) == path), None)

    def _save(self, path: str | None, text: str, *raw: Any) -> str:
        def save(image: Path) -> str:
            target = self._context.captions.save(image, text)
            return f"Saved to {escape_undecodable(target.name)}. Undo puts the old one back."

        return self._edited(path, text, raw, save)

    def _undo(self, path: str | None, text: str, *raw: Any) -> str:
        return self._edited(path, text, raw, self._put_back)

    def _put_back(self, image: Path) -> str:
        is_back = self._context.captions.undo(image)
        return "The caption from before is back." if is_back else NOTHING_SAVED

    def _edited(self, path: str | None, text: str, raw: tuple[Any, ...], change: Callable[[Path], str]) -> str:
        """Change the caption of an image of the last check, look at the folder again, and say what was done."""
        example = self._example(path)
        if example is None or not self._context.roots.allow(example.path):
            raise refusal("Press Check and choose an image first.")
        try:
            told = change(example.path)
            self._drafts.forget(example, text)
            self._scan(raw)
        except Ed2Error as error:
            raise refusal(str(error)) from None
        gr.Info(told, duration=6)
        return self._report_html()

    def _report_html(self) -> str:
        checked = self._context.checked
        return stale_html(self._asked) + report_html(checked) if checked else ""


def _key(example: Example) -> str:
    """What a browser calls an image: where it lies, with bytes spelled out that are no text and cannot be sent."""
    return escape_undecodable(str(example.path))


def _told_of(folder: Path) -> str:
    """How many images lie in a folder, and its folders. Raises OSError."""
    found = contents(folder)
    folders = listed("Folders in it", (entry(name, folder / name) for name in found.folders))
    return f'<p class="ed-note">{counted(found.num_images, "image")} in it</p>{folders}'
