"""The part of the tab Resume that tests, on the form's settings and images, whether a killed run goes on exactly."""

from html import escape
from typing import Any

import gradio as gr

from ed2.app.resume_test.tester import ResumeTester, TestStatus
from ed2.app.service import RefusedError
from ed2.errors import Ed2Error
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.wiring import QUIET, SPOKEN, TICK, refusal

WHAT_IT_IS = (
    "### Would a run survive a crash?\n"
    "*Test resume* finds out, with the settings and images that the tabs hold now, whatever run is chosen above. It "
    "trains eight steps in one go; then four, kills the training without warning, and does the other four. Every byte "
    "of the two is compared, and what it writes is removed. A run that is started meanwhile ends the test."
)
WAIT = "A run is going on: the test can be made when it has ended."
WORDS = {
    "running": ("busy", "Testing"), "same": ("good", "Passed"), "different": ("bad", "Different"),
    "failed": ("wait", "No result"),
}  # fmt: skip
"""How each state looks and what it is called."""
SECONDS = 1.0


class ResumeTestPanel:
    """A button, and how far the test is."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.tester = ResumeTester(self._is_training)
        with gr.Column(elem_classes="ed-card", elem_id="resume-test-card"):
            gr.Markdown(WHAT_IT_IS)
            with gr.Row(elem_classes="ed-actions"):
                self.begin = gr.Button("Test resume", elem_id="test-resume-button", min_width=140)
                self.end = gr.Button("Stop the test", elem_id="stop-test-button", min_width=140, visible=False)
            self.told = gr.HTML(shown_html(TestStatus()), js_on_load=None)
        self._timer = gr.Timer(SECONDS, active=False)

    def wire(self, form: Form, tab: gr.Tab, phase: gr.HTML) -> None:
        """Connect the buttons; a page that is opened later sees the test too. A run changes `phase`."""
        self._form = form
        outputs = [self.told, self.begin, self.end, self._timer]
        self.begin.click(self._begin, form.inputs, outputs, **SPOKEN)
        self.end.click(lambda: self.tester.stop(), None, None, **QUIET)
        for event in (tab.select, phase.change):
            event(self._now, None, outputs, **QUIET)
        self._timer.tick(self._now, None, outputs, **TICK)

    def _is_training(self) -> bool:
        return self._context.service.snapshot().is_active

    def _begin(self, *raw: Any) -> list[Any]:
        try:
            self.tester.start(self._context.require_allowed(self._form.values_of(raw)))
        except RefusedError as error:
            raise refusal(str(error)) from None
        except Ed2Error as error:
            return [shown_html(TestStatus("failed", str(error))), gr.skip(), gr.skip(), gr.skip()]
        return self._now()

    def _now(self) -> list[Any]:
        shown, is_training = self.tester.shown, self._is_training()
        is_running = shown.state == "running"
        buttons = [gr.update(interactive=not is_running and not is_training), gr.update(visible=is_running)]
        return [shown_html(shown, WAIT if is_training else ""), *buttons, gr.Timer(active=is_running)]


def shown_html(shown: TestStatus, wait: str = "") -> str:
    """How far the test is, in words; `wait` says why there can be none now."""
    text = escape(shown.text).replace("\n", "<br>")
    words = ""
    if shown.state in WORDS:
        look, name = WORDS[shown.state]
        words = f'<p><span class="ed-pill" data-look="{look}">{name}</span> {text}</p>'
    note = f'<p class="ed-note">{escape(wait)}</p>' if wait else ""
    return f'<div id="resume-test" data-state="{shown.state}" role="status">{note}{words}</div>'
