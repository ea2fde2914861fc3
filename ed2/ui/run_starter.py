"""Starting the run of the form, with the prompts in the table; captions that are not saved are asked about first."""

from collections.abc import Callable

import gradio as gr

from ed2.app.page.workbench import Item
from ed2.errors import Ed2Error, RefusedError
from ed2.settings.files import PROGRAM_DIR, absolute_paths
from ed2.text import counted, first_of, plural
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.html import note_html, problems_html
from ed2.ui.sampling_tab import SamplingTab
from ed2.ui.wiring import SPOKEN, Updates, Values

MAX_NAMES = 3


class RunStarter:
    """The start and its question; create it inside a `gr.Blocks`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        with gr.Row(visible=False, elem_id="unsaved-question", elem_classes="ed-actions ed-asked") as self.row:
            self.text = gr.HTML("", js_on_load=None)
            self.save = gr.Button("Save and train", elem_id="save-and-train-button", min_width=140)
            self.without = gr.Button("Train without saving", elem_id="train-without-button", min_width=160)

    def wire(self, form: Form, tabs: gr.Tabs, problems: gr.HTML, sampling: SamplingTab) -> None:
        """Connect the buttons of the question, once every control of the form is made."""
        self._form, self._tabs, self._problems, self._sampling = form, tabs, problems, sampling
        self.inputs = {*form.inputs, *sampling.outputs}
        self.outputs = [tabs, problems, self.row, self.text, *sampling.saved]
        self.saved = self.save.click(self.save_and_start, self.inputs, self.outputs, **SPOKEN)
        self.started = [self.saved, self.without.click(self.start_anyway, self.inputs, self.outputs, **SPOKEN)]

    def start(self, request: gr.Request, held: Values) -> Updates:
        """Start the run of the form; if captions of its images are not saved, ask what to do with them."""
        unsaved = self._unsaved(held)
        if not unsaved:
            return self.start_anyway(request, held)
        text = f"{counted(len(unsaved), 'caption')} {plural(len(unsaved), 'is', 'are')} not saved"
        if automatic := sum(map(self._context.desk.is_proposed, unsaved)):
            text += f", {automatic:,} of them automatic"
        names = first_of([item.name for item in unsaved], MAX_NAMES)
        shown = {self.text: note_html(f"{text}: {names}."), self.row: gr.update(visible=True)}
        return {**shown, self._problems: problems_html(())}

    def save_and_start(self, request: gr.Request, held: Values) -> Updates:
        """Save the captions that are asked about, then start the run."""
        try:
            if unsaved := self._unsaved(held):
                gr.Info(self._context.desk.save(unsaved), duration=6)
        except Ed2Error as error:
            return {self._problems: problems_html(error.problems)}
        return self.start_anyway(request, held)

    def start_anyway(self, request: gr.Request, held: Values) -> Updates:
        """Start the run of the form, with the prompts in the table."""
        try:
            saved = self._sampling.save_edited(request, held)
        except Ed2Error as error:
            return {self._problems: problems_html(error.problems)}
        values = self._form.read({**held, **saved})
        started = start_run(self._context, values, self._tabs, self._problems)
        return {**saved, **started, self.row: gr.update(visible=False)}

    def _unsaved(self, held: Values) -> list[Item]:
        values = absolute_paths(self._form.read(held), PROGRAM_DIR)
        return self._context.desk.unsaved_in(values["data_root"])


def start_run(context: Context, values: dict[str, object], tabs: gr.Tabs, problems: gr.HTML) -> Updates:
    """Start a run and open the Train tab; what is wrong goes into the box of problems."""
    return start_values(lambda: context.start(values), tabs, problems, context)


def start_values(begin: Callable[[], None], tabs: gr.Tabs, problems: gr.HTML, context: Context) -> Updates:
    """Begin something that shows in the Train tab, and open that; what is wrong goes into the box of problems."""
    try:
        begin()
    except RefusedError as error:
        gr.Warning(str(error), duration=6)
        return {tabs: gr.Tabs(selected="train"), problems: problems_html(context.service.snapshot().problems)}
    except Ed2Error as error:
        return {problems: problems_html(error.problems)}
    return {tabs: gr.Tabs(selected="train"), problems: problems_html(())}
