"""The status strip above the tabs: the state, Train, Pause and Stop, and what needs attention."""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from ed2.app.snapshot import RunSnapshot
from ed2.errors import RefusedError
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.html import missing_html, problems_html, status_html
from ed2.ui.page_state import PageState
from ed2.ui.run_starter import RunStarter
from ed2.ui.sampling_tab import SamplingTab
from ed2.ui.wiring import SPOKEN, Updates

PAUSE, CONTINUE = "Pause", "Continue"
STOP, STOPPING = "Stop", "Stopping"


class Strip:
    """Always in sight, whatever the tab."""

    def __init__(self, context: Context) -> None:
        self._context, self._service = context, context.service
        with gr.Column(elem_id="strip"):
            self.status = gr.HTML(status_html(None), js_on_load=None)
            with gr.Row(elem_id="strip-buttons"):
                self.train = gr.Button("Train", variant="primary", interactive=False, elem_id="train-button")
                self.queue = gr.Button("Add to queue", interactive=False, elem_id="queue-button")
                self.pause = gr.Button(PAUSE, interactive=False, elem_id="pause-button")
                self.stop = gr.Button(STOP, variant="stop", interactive=False, elem_id="stop-button")
                self.leave = gr.Button("Stop without saving", variant="stop", visible=False, elem_id="leave-button")
            self.queue_line = gr.HTML("", js_on_load="ed.watchLinks(element)")
            self.missing = gr.HTML(missing_html(()), js_on_load="ed.watchLinks(element)")
            self.starter = RunStarter(context)
            self.problems = gr.HTML(problems_html(()), js_on_load=None)

    @property
    def outputs(self) -> list[Any]:
        """What `updates` may change."""
        buttons = [self.train, self.pause, self.stop, self.leave]
        return [self.status, self.missing, self.problems, self.starter.row, *buttons]

    def seen(self) -> bool:
        """Whether there are captions to ask about at the start of a run."""
        return bool(self._context.desk.unsaved)

    def updates(self, shown: RunSnapshot, page: PageState, now: Mapping[str, Any]) -> Updates:
        """Updates for what the page shows outdated; buttons change only with the state and with what is missing."""
        updates: Updates = {}
        missing = now["missing"]
        if page.is_outdated("status", shown):
            updates[self.status] = status_html(shown)
        if page.is_outdated("problems", shown):
            updates[self.problems] = problems_html(shown.problems)
        is_other = page.shows_other_state(shown)
        if is_other:
            updates |= self._buttons(shown)
        if is_other or (page.seen.get("unsaved") and not now["unsaved"]):
            updates[self.starter.row] = gr.update(visible=False)
        if is_other or page.seen.get("missing") != missing:
            updates[self.train] = gr.update(interactive=not shown.is_active and not missing)
            updates[self.missing] = missing_html(() if shown.is_active else missing)
        return updates

    def _buttons(self, shown: RunSnapshot) -> Updates:
        is_paused, is_stopping = shown.state == "paused", shown.state == "stopping"
        can_pause = shown.allows("continue")
        updates = {
            self.pause: gr.update(value=CONTINUE if is_paused else PAUSE, interactive=can_pause),
            self.stop: gr.update(value=STOPPING if is_stopping else STOP, interactive=shown.is_active),
        }
        if not is_stopping:
            updates[self.leave] = gr.update(visible=False)
        return updates

    def wire(self, form: Form, tabs: gr.Tabs, sampling: SamplingTab) -> None:
        """Connect the buttons, once every control of the form is made."""
        starter = self.starter
        starter.wire(form, tabs, self.problems, sampling)
        pressed = self.train.click(starter.start, starter.inputs, starter.outputs, **SPOKEN)
        self.started = [pressed, *starter.started]
        self.pause.click(self.pause_or_resume, self.pause, None, **SPOKEN)
        self.stop.click(self.stop_run, None, [self.leave, self.stop], **SPOKEN)
        self.leave.click(lambda: request(self._service.stop_without_saving), None, None, **SPOKEN)

    def pause_or_resume(self, label: str) -> None:
        """Do what the button's label said when it was pressed: a second press before the label changes does nothing."""
        is_paused = self._service.snapshot().state == "paused"
        if is_paused and label == CONTINUE:
            request(self._service.resume)
        elif not is_paused and label == PAUSE:
            request(self._service.pause)

    def stop_run(self) -> Updates:
        """Stop, and show it at once; if the run is already stopping, offer to stop without saving."""
        if self._service.snapshot().state == "stopping":
            return {self.leave: gr.update(visible=True)}
        request(self._service.stop)
        if self._service.snapshot().state == "stopping":
            return {self.stop: gr.update(value=STOPPING)}
        return gr.skip()


def request(command: Callable[[], None]) -> None:
    """Send a command to the service; a refusal is shown to the user."""
    try:
        command()
    except RefusedError as error:
        gr.Warning(str(error), duration=6)
