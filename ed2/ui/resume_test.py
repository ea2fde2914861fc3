"""The part of the Resume tab that tests, with the form's settings and images, whether a killed run resumes exactly."""

import gradio as gr

from ed2.app.background import TaskStatus
from ed2.app.resume_test.run import ResumeTester
from ed2.errors import Ed2Error, RefusedError
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.html import task_html
from ed2.ui.wiring import QUIET, SPOKEN, TICK, Updates, Values, refusal

EXPLANATION = (
    "### Would a run survive a crash?\n"
    "*Test resume* finds out, with the settings and images in the form, not the run selected above. It trains eight "
    "steps in one go. Then it trains four, kills the training without warning, resumes, and trains the other four. "
    "Finally it compares every byte of the two results and deletes what it wrote. Starting a run ends the test."
)
WAIT = "A run is in progress. You can test when it has ended."
LOOKS = {
    "running": ("busy", "Testing"),
    "same": ("good", "Passed"),
    "different": ("bad", "Results differ"),
    "failed": ("wait", "No result"),
}
"""The style and label of each state."""
BOX = "resume-test"
TICK_SECONDS = 1.0


class ResumeTestPanel:
    """A button, and how far the test is."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.tester = ResumeTester(self._is_training)
        with gr.Column(elem_classes="ed-card", elem_id="resume-test-card"):
            gr.Markdown(EXPLANATION)
            with gr.Row(elem_classes="ed-actions"):
                self.start = gr.Button("Test resume", elem_id="test-resume-button", min_width=140)
                self.stop = gr.Button("Stop test", elem_id="stop-test-button", min_width=140, visible=False)
            self.result = gr.HTML(task_html(BOX, TaskStatus(), LOOKS), js_on_load=None)
        self._timer = gr.Timer(TICK_SECONDS, active=False)

    def wire(self, form: Form, tab: gr.Tab, phase: gr.HTML) -> None:
        """Connect the buttons; a page that is opened later sees the test too. A run changes `phase`."""
        self._form = form
        outputs = [self.result, self.start, self.stop, self._timer]
        self.start.click(self.start_test, set(form.inputs), outputs, **SPOKEN)
        self.stop.click(lambda: self.tester.stop(), None, None, **QUIET)
        for event in (tab.select, phase.change):
            event(self.show, None, outputs, **QUIET)
        self._timer.tick(self.show, None, outputs, **TICK)

    def start_test(self, held: Values) -> Updates:
        """Test the form; settings that cannot be trained with are the result."""
        try:
            self.tester.start(self._context.require_allowed(self._form.read(held)))
        except RefusedError as error:
            raise refusal(str(error)) from None
        except Ed2Error as error:
            return {self.result: task_html(BOX, TaskStatus("failed", str(error)), LOOKS)}
        return self.show()

    def show(self) -> Updates:
        """How far the test is, and which buttons make sense."""
        shown, wait = self.tester.shown, ""
        if self._is_training():
            wait = WAIT
        is_running = shown.state == "running"
        return {
            self.result: task_html(BOX, shown, LOOKS, wait),
            self.start: gr.update(interactive=not is_running and not wait),
            self.stop: gr.update(visible=is_running),
            self._timer: gr.Timer(active=is_running),
        }

    def _is_training(self) -> bool:
        return self._context.service.snapshot().is_active
