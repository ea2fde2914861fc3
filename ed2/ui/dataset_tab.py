"""The Dataset tab: choose a folder, see what is in it and how it will be cropped, edit captions."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import gradio as gr

from ed2.app.checks.check import CheckResult
from ed2.app.page.folders import contents, images_below, is_folder, places
from ed2.app.page.start import missing_things
from ed2.app.page.workbench import Workbench
from ed2.data.example import FindingKind
from ed2.data.report import HEADINGS
from ed2.errors import Ed2Error, Problem
from ed2.settings.fields import fields
from ed2.settings.files import PROGRAM_DIR, absolute_paths, with_defaults
from ed2.settings.schema import Settings
from ed2.text import counted, first_of
from ed2.ui.caption_panel import CaptionPanel
from ed2.ui.context import Context
from ed2.ui.edit_panels import BulkPanel, WeightPanel
from ed2.ui.folder_browser import NO_FOLDER, FolderBrowser, folder_of
from ed2.ui.form import Form, defaults, from_control
from ed2.ui.grid_html import buckets_html
from ed2.ui.html import button_html, buttons_html, empty_html, escape, list_html, note_html, on_page, problems_html
from ed2.ui.image_grid import ASK, ImageGrid
from ed2.ui.wiring import QUIET, SLOW, SPOKEN, Updates, Values, fill, refusal

FOLDERS = "data_root"
NEEDED_GROUPS = ("data", "run", "model", "validation")
REPORT_SECONDS = 0.3
FINDING = "Finding images"
MAX_PROBLEMS = 20
MAX_NAMES = 3
NOT_CHECKED = "Choose a folder, or type one, to see its images. Nothing is changed."
STALE = (
    '<p class="ed-stale" role="status">These results are out of date: the folder or an image setting has changed. '
    "Press Check again.</p>"
)
"""Hidden by `page.css` until the facts of the form say that it is so."""


class DatasetTab:
    """The images that the form names."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        form.add([FOLDERS])
        self.wrong_folder = gr.HTML("", elem_id="wrong-folder", js_on_load=None)
        self._typed = gr.Textbox(visible=False)
        with gr.Accordion("Choose a folder", open=False) as self.chooser:
            self.browser = FolderBrowser(context.roots, "browse", lambda: places(context.roots), describe_folder)
            with gr.Row(elem_classes="ed-actions"):
                self.browser.up.render()
                self.take = gr.Button("Use this folder", elem_id="browse-take-button", min_width=140)
        with gr.Row(elem_classes="ed-actions"):
            self.check = gr.Button("Check", variant="primary", elem_id="check-button", min_width=140)
        self.report = gr.HTML(empty_html(NOT_CHECKED), elem_id="dataset-report", js_on_load=None)
        self.grid = ImageGrid(context)
        with gr.Column(visible=False) as self.tools:
            self.bulk = BulkPanel(context, self.grid)
            self.captions = CaptionPanel(context, self.grid)
            self.weights = WeightPanel(context, self.grid)
        self.details = gr.HTML("", elem_id="dataset-details", js_on_load=None)

    def wire(self) -> None:
        """Connect everything, once every control of the form is made."""
        inputs = set(self._form.inputs)
        slow = {**SLOW, "concurrency_id": "check", "show_progress_on": self.report}
        self.grid.wire()
        self.bulk.wire()
        self.captions.wire()
        self.weights.wire()
        self.browser.wire()
        self.browser.inside.click(self.browser.open_pressed, None, self.browser.outputs, **SPOKEN)
        folders = self._form.controls[FOLDERS]
        place = self.browser.place
        taken = fill(self.take.click, self.use_folder, [place, folders], [folders], [self.chooser], **SPOKEN)
        chosen = taken.then(self.check_images, inputs, self._results, **slow)
        folders.blur(self.look_at_typed, folders, [self.wrong_folder, self._typed], **QUIET)
        typed = self._typed.change(self.check_images, inputs, self._results, **slow)
        self.checks = [self.check.click(self.check_images, inputs, self._results, **slow), chosen, typed]
        for event in self.checks:
            self.show_after(event)
        for refreshed in self.grid.refreshed:
            refreshed.then(self.results, None, self._results, **QUIET)
        self.report.change(self.grid.show, self.grid.inputs, self.grid.outputs, js=ASK, **QUIET)

    @property
    def _results(self) -> list[Any]:
        return [self.report, self.grid.column, self.tools, self.details]

    def show_after(self, event: Any) -> None:
        """Show the checked images once this has ended, then what reading all of them finds."""
        shown = self.grid.show_after(event)
        reading = {**SLOW, "concurrency_id": "reading", "show_progress_on": self.report}
        shown.then(self.read_rest, None, [self.report, self.details], **reading)

    @property
    def opened_outputs(self) -> list[Any]:
        """What `opened` changes."""
        return [*self.browser.outputs, *self._results]

    def opened(self) -> Updates:
        """What a page that opens shows: the first folder to browse, and the results of the last check."""
        return {**self.browser.open(str(places(self._context.roots)[0].folder)), **self.results()}

    def use_folder(self, _: gr.Request, held: Values) -> Updates:
        """Put the folder of the browser into the form, and close the browser."""
        folder = folder_of(held[self.browser.place])
        if not self._context.roots.allow(folder) or not is_folder(folder):
            raise refusal(NO_FOLDER)
        return {self._form.controls[FOLDERS]: str(folder), self.chooser: gr.update(open=False)}

    def look_at_typed(self, text: str) -> Updates:
        """Have folders that were typed checked, unless they were already; say beside the field if one is not there."""
        folders = absolute_paths({FOLDERS: from_control(fields()[FOLDERS], text)}, PROGRAM_DIR)
        if not (text or "").strip():
            return {self.wrong_folder: ""}
        for choice in missing_things(folders, self._context.roots):
            if choice.setting == FOLDERS:
                return {self.wrong_folder: f'<p class="ed-warn" role="alert">{escape(on_page(choice.what))}</p>'}
        checked = self._context.desk.checked
        if checked and list(checked.settings.data.data_root) == folders[FOLDERS]:
            return {self.wrong_folder: ""}
        return {self.wrong_folder: "", self._typed: str(time.monotonic_ns())}  # a new text each time: it is an event

    def check_images(self, held: Values, progress: gr.Progress = gr.Progress()) -> Updates:  # noqa: B008
        """Find the images and show the first results; `read_rest` goes on from there."""
        progress(0, desc=FINDING)
        try:
            self._context.desk.look(self._settings(held), _now_and_then(progress, FINDING))
        except Ed2Error as error:
            html = problems_html(error.problems, box_id="dataset-problems")
            hidden = gr.update(visible=False)
            return {self.report: html, self.grid.column: hidden, self.tools: hidden, self.details: ""}
        return self.results()

    def check_kept(self) -> None:
        """Look at the images of the form that was kept, as after a restart: the plan needs no press then."""
        values = {**defaults(), **self._context.form_values()}
        shown = self._form.show(values)
        with contextlib.suppress(Ed2Error):  # a person who presses Check is told
            self._context.desk.look(self._settings(shown))

    def read_rest(self, progress: gr.Progress = gr.Progress()) -> Iterator[Updates]:  # noqa: B008
        """Read every image in full, then look for near duplicates."""
        desk = self._context.desk
        for work, what in ((desk.read_all, "Reading images"), (desk.compare, "Looking for near duplicates")):
            if not work(_now_and_then(progress, what)):
                yield gr.skip()  # where nothing is yielded, Gradio 6.31 empties the outputs
                return
            results = self.results()
            yield {self.report: results[self.report], self.details: results[self.details]}

    def results(self) -> Updates:
        """What the last check found."""
        bench = self._context.desk.bench
        if bench is None:
            return {self.report: gr.skip()}
        shown = gr.update(visible=True)
        return {
            self.report: STALE + report_html(bench),
            self.grid.column: shown,
            self.tools: shown,
            self.details: details_html(bench.checked),
        }

    def _settings(self, held: Values) -> Settings:
        values = self._form.read(held)
        needed = {name: value for name, value in values.items() if _is_needed(name)}
        return with_defaults({**defaults(), **self._context.require_allowed(needed)})


def _now_and_then(progress: gr.Progress, what: str) -> Callable[[int, int], None]:
    """Report progress a few times a second: each report costs the page as much as reading a small image."""
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            progress((done, total), desc=what, unit="images")

    return report


def _is_needed(name: str) -> bool:
    return fields()[name].group in NEEDED_GROUPS and name != "seed"


def describe_folder(folder: Path) -> str:
    """How many images are in a folder and below it, and its folders. Raises OSError."""
    found = contents(folder)
    text = f"{counted(found.num_images, 'image')} in this folder"
    if found.folders:
        below, is_all = images_below(folder)
        text += f", {counted(below, 'image')} with all folders in it" if is_all else f", more than {below:,} below it"
    folders = buttons_html("Folders", [button_html(name, folder / name) for name in found.folders])
    return note_html(text) + folders


def report_html(bench: Workbench) -> str:
    """One line: how many images can be used, what they are like, and how many steps they make."""
    checked, counts = bench.checked, bench.counts
    found = checked.dataset
    facts = [f"{len(checked.buckets)} buckets" if len(checked.buckets) > 1 else "1 bucket"]
    if number := counts.get("uncaptioned", 0):
        facts.append(f"{number:,} without caption")
    words = [len(example.caption.split()) for example in found.examples]
    facts.append(f"captions of {median(words):g} words (median)")
    per_epoch, total = checked.steps
    facts.append(f"{counted(per_epoch, 'step')} per epoch, {total:,} in {counted(checked.plan.max_epochs, 'epoch')}")
    if found.num_unread:
        facts.append(f"{found.num_unread:,} still to be read in full")
    used = f"{counted(len(found.examples), 'image')} can be used"
    if found.problems:
        used += f", {counted(len(found.problems), 'file')} cannot"
    mark = f'data-round="{found.num_unread} {bench.is_compared}"'
    return f'<p class="ed-summary" {mark}><strong>{used}</strong> · {" · ".join(facts)}</p>'


def details_html(checked: CheckResult) -> str:
    """The images per bucket, what is worth knowing, and what is wrong."""
    found = checked.as_object()
    buckets = [((bucket["size"][0], bucket["size"][1]), bucket["images"]) for bucket in found["buckets"]]
    html = f'<div class="ed-card"><h3>Images per bucket</h3>{buckets_html(buckets)}{_notes_html(checked)}</div>'
    of_model = {problem.what for problem in checked.model_problems}  # not about the images: listed as notes
    problems = [Problem(p["path"], p["what"], p["fix"]) for p in found["problems"] if p["what"] not in of_model]
    if not problems:
        return html
    return html + problems_html(problems, box_id="dataset-problems", most=MAX_PROBLEMS)


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
        heading, names = HEADINGS.get(kind, "Notes"), first_of(texts, MAX_NAMES)
        items.append(f"<strong>{escape(heading)} ({len(texts):,})</strong>: {escape(names)}")
    items += [escape(on_page(note)) for note in (*map(str, checked.model_problems), *checked.caption_notes())]
    if not items:
        return ""
    return list_html(items, "ed-note")
