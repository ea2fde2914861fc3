"""The Sampling tab: what is sampled while training, and how often."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.page.prompt_table import EMPTY, HEADERS, NOT_SAVED, PromptTable, file_of, table_of
from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error, Problem, SettingsError
from ed2.registry import SAMPLERS
from ed2.sampling.prompt import NUM_STEPS, SAMPLER
from ed2.settings.fields import fields
from ed2.settings.files import unquoted
from ed2.ui.context import Context
from ed2.ui.form import Form, short_path
from ed2.ui.page_state import PageState
from ed2.ui.wiring import QUIET, SPOKEN, Updates, Values, fill, refusal, refusing

SPARE_ROWS = 3
SAMPLER_INFO = "Algorithm that denoises the samples. Saved with the prompts."
STEPS_INFO = "More steps take longer and show finer detail. Saved with the prompts."
TABLE_LABEL = "One prompt per row. Empty cells use the defaults: the run's seed and size, and CFG 1 4 7."
UNSAVED = "Not saved yet. Train and Add to queue save these prompts first; for a run in progress, press Save prompts."
UNSAVED_HTML = f'<p class="ed-warn" role="status">{UNSAVED}</p>'
SETTING = "sample_prompts"
COLUMN_WIDTHS = ["326px", "290px", "130px", "130px", "130px", "168px"]


class SamplingTab:
    """The settings of the group Sampling, and a table of the prompts."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        with gr.Row():
            with gr.Column(min_width=300):
                form.add(name for name, spec in fields().items() if spec.group == "sampling")
                self._path = form.controls[SETTING]
            with gr.Column(min_width=300):
                samplers = [(f"default ({SAMPLER})", ""), *SAMPLERS]
                self.sampler = gr.Dropdown(
                    samplers, value="", label="Sampler", interactive=True, elem_id="prompts-sampler", info=SAMPLER_INFO
                )
                self.steps = gr.Number(
                    NUM_STEPS,
                    label="Denoising steps",
                    step=1,
                    interactive=True,
                    elem_id="prompts-steps",
                    info=STEPS_INFO,
                )
        self.prompts = gr.Dataframe(
            _with_spare_rows(PromptTable(())),
            headers=list(HEADERS),
            datatype="str",
            type="array",
            elem_id="prompts",
            label=TABLE_LABEL,
            column_count=len(HEADERS),
            column_widths=COLUMN_WIDTHS,
            row_count=SPARE_ROWS,
            interactive=True,
            wrap=True,
            buttons=[],
        )
        self.unsaved = gr.HTML("", elem_id="prompts-unsaved", js_on_load=None)
        with gr.Row(elem_classes="ed-actions"):
            self.save = gr.Button("Save prompts", variant="primary", elem_id="save-prompts-button", min_width=140)
            self.read = gr.Button("Reload file", elem_id="read-prompts-button", min_width=140)

    @property
    def outputs(self) -> list[Any]:
        """What `prompts_of` changes, and what `save_edited` needs besides the form."""
        return [*self._table, self.unsaved]

    @property
    def _table(self) -> list[Any]:
        return [self.prompts, self.sampler, self.steps]

    @property
    def saved(self) -> list[Any]:
        """What `save_edited` changes."""
        return [self._path, self.unsaved]

    def wire(self, filled: Sequence[Any]) -> None:
        """Connect the buttons; `filled` are the events that may set another file."""
        path, given = self._path, [self._path, *self._table]
        for event in (self.read.click, path.submit):
            fill(event, self.reload, given, self._table, [self.unsaved], is_whole=True, **SPOKEN)
        for event in (path.blur, *(event.then for event in filled)):
            fill(event, self.follow, given, self._table, [self.unsaved], is_whole=True, **QUIET)
        fill(self.save.click, self.save_prompts, given, [path], [self.unsaved], **SPOKEN)
        edited = [control.input for control in self._table]
        gr.on(edited, None, None, self.unsaved, js=f"() => {json.dumps(UNSAVED_HTML)}")  # at once: Train may be next
        gr.on(edited, self.keep, set(self._table), None, trigger_mode="always_last", **QUIET)

    def prompts_of(self, page: PageState, path: object) -> Updates:
        """The prompts of a file as they were edited last, unless the page shows them already.

        Focusing the file field and leaving it unchanged does not lose what was typed in the table. A file that cannot
        be read has no prompts.
        """
        name = _name_of(path)
        if name == page.prompt_file:
            return {}
        page.prompt_file = name
        if draft := self._context.prompt_drafts.get(name):
            return {**self._show(draft), self.unsaved: UNSAVED_HTML}
        try:
            table = self._read(name)
        except (OSError, ValueError, Ed2Error):
            table = PromptTable(())
        return {**self._show(table), self.unsaved: ""}

    def follow(self, request: gr.Request, held: Values) -> Updates:
        """Show the prompts of the file that is set now."""
        return self.prompts_of(self._context.pages.of(request), held[self._path])

    def keep(self, request: gr.Request, held: Values) -> None:
        """Remember the table, so that a page that is loaded anew shows it."""
        table, file = self._typed(held), self._context.pages.of(request).prompt_file
        filled = [row for row in table.rows if any(row)]
        self._context.prompt_drafts[file or ""] = replace(table, rows=filled)

    def reload(self, request: gr.Request, held: Values) -> Updates:
        """Show the prompts of the file as it is on the disk."""
        path = held[self._path]
        try:
            table = self._read(path)
        except (OSError, ValueError, Ed2Error) as error:
            raise refusal(f"Cannot read the prompts: {error}") from None
        self._shows_file(request, _name_of(path))
        return {**self._show(table), self.unsaved: ""}

    def save_prompts(self, request: gr.Request, held: Values) -> Updates:
        """Write the table into the user's own file, and set that file."""
        with refusing():
            saved = self._save(request, held)
        gr.Info("Saved. Runs with this prompt file draw them from the next samples on.", duration=4)
        return saved

    def save_edited(self, request: gr.Request, held: Values) -> Updates:
        """Do the same for a run that is about to start, if the table was edited.

        Raises:
            SettingsError: lists what is wrong with the table.
        """
        shown = self._context.pages.of(request).prompt_file
        if not held[self.unsaved] or _name_of(held[self._path]) != shown:
            return {}
        try:
            return self._save(request, held)
        except SettingsError as error:
            raise SettingsError(NOT_SAVED, [_in_table(problem) for problem in error.problems]) from None

    def _save(self, request: gr.Request, held: Values) -> Updates:
        try:
            text = file_of(self._typed(held))
            file = self._context.user.write(self._context.user.prompts.name, text)
        except OSError as error:
            what = f"the file cannot be written: {plain_reason(error)}."
            raise SettingsError(NOT_SAVED, [Problem(str(self._context.user.prompts), what)]) from None
        self._context.prompt_drafts.pop(self._context.pages.of(request).prompt_file or "", None)
        self._shows_file(request, short_path(str(file)))
        return {self._path: str(file), self.unsaved: ""}

    def _shows_file(self, request: gr.Request, name: str) -> None:
        """The page shows a file as it is on the disk, whatever was typed for it before."""
        self._context.pages.of(request).prompt_file = name
        self._context.prompt_drafts.pop(name, None)

    def _typed(self, held: Values) -> PromptTable:
        """The table that the controls hold."""
        steps = held[self.steps]
        num_steps = None if steps in (None, NUM_STEPS) else int(steps)
        return PromptTable(held[self.prompts], held[self.sampler], num_steps)

    def _read(self, path: str) -> PromptTable:
        return table_of(Path(str(self._context.require_allowed({"sample_prompts": path})["sample_prompts"])))

    def _show(self, table: PromptTable) -> Updates:
        steps = table.num_steps or NUM_STEPS
        return {self.prompts: _with_spare_rows(table), self.sampler: table.sampler, self.steps: steps}


def _in_table(problem: Problem) -> Problem:
    """The same problem as one of the setting, so that it leads to the tab."""
    place = f"{problem.path}: " if problem.path else ""
    return Problem(SETTING, f"{place}{problem.what}", problem.fix)


def _name_of(path: object) -> str:
    return short_path(unquoted(str(path or "").strip()))


def _with_spare_rows(table: PromptTable) -> list[list[object]]:
    """The rows, and some empty ones to fill in."""
    return [list(row) for row in (*table.rows, *[EMPTY] * SPARE_ROWS)]
