"""The strip over the tabs: the state, Train, Pause and Stop, and what went wrong."""

from typing import Any

import gradio as gr

from ed2.app.service import RefusedError
from ed2.app.snapshot import RunSnapshot
from ed2.errors import Ed2Error, Problem, ProblemsError
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.html import problems_html, status_html
from ed2.ui.live import Seen, changed
from ed2.ui.wiring import SPOKEN

STOPPING, PAUSE, GO_ON = "Stopping", "Pause", "Continue"


class Strip:
    """Always in sight, whatever the tab."""

    def __init__(self, context: Context) -> None:
        self._context, self._service = context, context.service
        with gr.Column(elem_id="strip"):
            self.status = gr.HTML(status_html(None), js_on_load=None)
            with gr.Row(elem_id="strip-buttons"):
                self.train = gr.Button("Train", variant="primary", elem_id="train-button")
                self.pause = gr.Button(PAUSE, interactive=False, elem_id="pause-button")
                self.stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="stop-button")
                self.leave = gr.Button("Leave without saving", variant="stop", visible=False, elem_id="leave-button")
            self.problems = gr.HTML(problems_html(()), js_on_load=None)

    @property
    def outputs(self) -> list[Any]:
        """What `updates` gives values for."""
        return [self.status, self.problems, self.train, self.pause, self.stop, self.leave]

    def updates(self, shown: RunSnapshot, seen: Seen) -> list[Any]:
        """A value for each output; buttons change with the state alone."""
        is_new = changed(shown, seen)
        made: list[Any] = [gr.skip()] * 6
        if is_new("status"):
            made[0] = status_html(shown)
        if is_new("problems"):
            made[1] = problems_html(shown.problems)
        if seen.get("state") != shown.state:
            made[2:] = buttons(shown)
        return made

    def wire(self, form: Form, tabs: gr.Tabs) -> None:
        """Connect the buttons, once every control of the form is made."""
        self._form = form
        self.begun = self.train.click(self._begin, form.inputs, [tabs, self.problems], **SPOKEN)
        self.pause.click(self._pause_or_go_on, self.pause, None, **SPOKEN)
        self.stop.click(self._stop, None, [self.leave, self.stop], **SPOKEN)
        self.leave.click(lambda: asked(self._service.stop_without_saving), None, None, **SPOKEN)

    def _begin(self, *raw: Any) -> tuple[Any, str]:
        values = self._form.values_of(raw)
        return started(self._context, values)

    def _pause_or_go_on(self, label: str) -> None:
        """Do what the button said when it was pressed: a second press before it says something else changes nothing."""
        is_paused = self._service.snapshot().state == "paused"
        if is_paused == (label == GO_ON):
            asked(self._service.resume if is_paused else self._service.pause)

    def _stop(self) -> tuple[Any, Any]:
        """Stop, and say so at once; where it is stopping already, offer to leave without saving."""
        if self._service.snapshot().state == "stopping":
            return gr.update(visible=True), gr.skip()
        asked(self._service.stop)
        is_stopping = self._service.snapshot().state == "stopping"
        return gr.skip(), gr.update(value=STOPPING) if is_stopping else gr.skip()


def started(context: Context, values: dict[str, object]) -> tuple[Any, str]:
    """Begin a run and open the tab Train; what is wrong goes into the box of problems."""
    try:
        context.start(values)
    except RefusedError as error:
        gr.Warning(str(error), duration=6)
        return gr.Tabs(selected="train"), problems_html(context.service.snapshot().problems)
    except ProblemsError as error:
        return gr.skip(), problems_html(error.problems)
    except Ed2Error as error:
        return gr.skip(), problems_html([Problem(None, str(error))])
    return gr.Tabs(selected="train"), problems_html(())


def asked(command: Any) -> None:
    """Ask the service for something; a refusal is told and harms nothing."""
    try:
        command()
    except RefusedError as error:
        gr.Warning(str(error), duration=6)


def buttons(shown: RunSnapshot) -> list[Any]:
    """Train, Pause, Stop and Leave as the state allows them."""
    is_busy = shown.is_active
    can_pause = shown.state in ("training", "sampling", "paused")
    return [
        gr.update(interactive=not is_busy),
        gr.update(value=GO_ON if shown.state == "paused" else PAUSE, interactive=can_pause),
        gr.update(value=STOPPING if shown.state == "stopping" else "Stop", interactive=is_busy),
        gr.update(visible=False) if shown.state != "stopping" else gr.skip(),
    ]
