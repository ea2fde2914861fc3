"""The queue: adding a run to it beside Train, and the list in the Resume tab."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from ed2.app.checks.start_checks import start_problems
from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error, RefusedError, SettingsError
from ed2.ui.context import Context
from ed2.ui.form import Form, defaults
from ed2.ui.html import note_html, problems_html
from ed2.ui.page_state import PageState
from ed2.ui.queue_html import EMPTY, is_being_run, queue_html, queue_line_html
from ed2.ui.sampling_tab import SamplingTab
from ed2.ui.strip import Strip
from ed2.ui.wiring import SPOKEN, Updates, Values, refusal, refusing

ADD, SAVE = "Add to queue", "Save run {}"
NOT_WRITTEN = "Nothing was changed, as the queue cannot be written"
NOT_A_RUN = "This run is no longer in the queue."
EDITING = "Editing run {} of the queue. Change its settings, then press “Save run {}”; your form comes back afterwards."


class QueuePanel:
    """The list, and what can be done with it; every run is looked up again in the queue, never trusted."""

    def __init__(self, context: Context) -> None:
        self._context, self._queue = context, context.queue
        self.heading = gr.Markdown("### Queue", visible=False, elem_id="queue-heading")
        self.list = gr.HTML(note_html(EMPTY), elem_id="queue", js_on_load="ed.watchQueue(element, trigger)")
        with gr.Row(elem_classes="ed-actions", visible=False) as self.actions:
            self.run = gr.Button("Run queue", elem_id="run-queue-button", min_width=140)
            self.clear = gr.Button("Remove done runs", elem_id="clear-queue-button", min_width=140)

    @property
    def outputs(self) -> list[Any]:
        """What `updates` may change, once it is wired."""
        parts = [self.heading, self.list, self.actions, self.run, self.clear]
        return [*parts, self._strip.queue, self._strip.queue_line]

    def wire(self, form: Form, strip: Strip, tabs: gr.Tabs, sampling: SamplingTab) -> Any:
        """Connect the buttons; returns the events that change the form."""
        self._form, self._strip, self._tabs, self._sampling = form, strip, tabs, sampling
        changed = [*self.outputs, *form.inputs, tabs]
        of_add = [*changed, strip.problems, sampling.unsaved]
        added = strip.queue.click(self.add, {*form.inputs, *sampling.outputs}, of_add, **SPOKEN)
        pressed = self.list.click(self.press, set(form.inputs), changed, **SPOKEN)
        self.run.click(self.run_queue, None, self.outputs, **SPOKEN)
        self.clear.click(self.remove_done, None, self.outputs, **SPOKEN)
        return [added, pressed]

    def seen(self, missing: object) -> object:
        """Changes with what is shown; asks the system about a lock only while a run is marked as running."""
        return (*self._queue.stamp(), is_being_run(self._queue), self._context.service.is_queue_wanted, bool(missing))

    def updates(self, page: PageState, seen: object) -> Updates:
        """Updates if the page shows an older queue."""
        return {} if page.seen.get("queue") == seen else self._shown(page)

    def add(self, request: gr.Request, held: Values) -> Updates:
        """Add a run with the settings of the form, or save the run that is edited; all its problems are shown."""
        page = self._context.pages.of(request)
        try:
            saved = self._sampling.save_edited(request, held)
            allowed = self._context.require_allowed(self._form.read({**held, **saved}))
            if problems := start_problems(allowed):
                raise SettingsError("The run cannot be queued:", problems)
            if page.edited_run:
                self._queue.change(page.edited_run, allowed)
                return {**saved, **self._leave_edit(page), self._strip.problems: problems_html(())}
            self._queue.add(allowed)
            if self._context.service.snapshot().is_active:
                self._context.service.run_queue(self._queue)
        except RefusedError as error:
            raise refusal(str(error)) from None
        except Ed2Error as error:
            return {self._strip.problems: problems_html(error.problems)}
        except OSError as error:
            raise refusal(f"{NOT_WRITTEN}: {plain_reason(error)}.") from None
        return {**saved, **self._shown(page), self._strip.problems: problems_html(())}

    def press(self, request: gr.Request, event: gr.EventData, held: Values) -> Updates:
        """Do what was pressed beside a run."""
        page = self._context.pages.of(request)
        number, action = getattr(event, "queued", None), getattr(event, "action", None)
        if not isinstance(number, int) or number not in [run.number for run in self._queue.runs()]:
            raise refusal(NOT_A_RUN)
        if action == "edit":
            return self._edit(page, number, self._form.read(held))
        if action == "cancel":
            return self._leave_edit(page)
        actions: dict[str, Callable[[], None]] = {
            "up": lambda: self._queue.move(number, self._place(number) - 1),
            "down": lambda: self._queue.move(number, self._place(number) + 1),
            "remove": lambda: self._queue.remove(number),
            "retry": lambda: self._queue.retry(number),
        }
        with refusing(NOT_WRITTEN):
            actions.get(str(action), lambda: None)()
        if page.edited_run == number and action == "remove":
            return self._leave_edit(page)
        return self._shown(page)

    def run_queue(self, request: gr.Request) -> Updates:
        """Train what waits, after the run in progress if there is one."""
        with refusing(NOT_WRITTEN):
            self._context.service.run_queue(self._queue)
        return self._shown(self._context.pages.of(request))

    def remove_done(self, request: gr.Request) -> Updates:
        """Take the runs that are done out of the queue."""
        with refusing(NOT_WRITTEN):
            self._queue.remove_done()
        return self._shown(self._context.pages.of(request))

    def _place(self, number: int) -> int:
        return [run.number for run in self._queue.runs()].index(number)

    def _edit(self, page: PageState, number: int, form: dict[str, object]) -> Updates:
        """Show the settings of a run in the form, which is kept meanwhile."""
        run = next(run for run in self._queue.runs() if run.number == number)
        if run.state != "waiting" or run.folder:
            raise refusal("A run that has started cannot be edited. Add another one to the queue.")
        with refusing():
            values = {**defaults(), **self._context.require_allowed(self._queue.settings_of(number))}
        if not page.edited_run:
            page.before_edit = form
        page.edited_run = number
        gr.Info(EDITING.format(number, number), duration=8)
        return {**self._form.show(values), **self._shown(page), self._tabs: gr.Tabs(selected="settings")}

    def _leave_edit(self, page: PageState) -> Updates:
        """Show the form as it was before a run was edited."""
        page.edited_run, form = 0, page.before_edit
        shown = {**self._shown(page), self._tabs: gr.Tabs(selected="resume")}
        return {**self._form.show(form), **shown} if form else shown

    def _shown(self, page: PageState) -> Updates:
        runs = self._queue.runs()
        is_run, wanted = is_being_run(self._queue), self._context.service.is_queue_wanted
        waiting = [run for run in runs if run.state in ("waiting", "stopped", "running")]
        label = SAVE.format(page.edited_run) if page.edited_run else ADD
        return {
            self.heading: gr.update(visible=bool(runs)),
            self.actions: gr.update(visible=bool(runs)),
            self.list: queue_html(runs, is_run=is_run, edited=page.edited_run),
            self.run: gr.update(interactive=bool(waiting) and not is_run and not wanted),
            self.clear: gr.update(interactive=any(run.state == "done" for run in runs)),
            self._strip.queue: gr.update(value=label, interactive=not self._context.missing()),
            self._strip.queue_line: queue_line_html(runs, is_run=is_run, is_wanted=wanted),
        }
