"""The part of the tab Resume that tests, on the form's settings and pictures, whether a killed run goes on exactly."""

from html import escape
from typing import Any

import gradio as gr

from ed2.app.service import RefusedError
from ed2.app.tester import ResumeTester, ShownTest
from ed2.errors import Ed2Error
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.live import QUIET, SPOKEN, TICK, refusal

WHAT_IT_IS = (
    "**Would a run of these settings survive a crash?** The test trains eight steps in one go; then four, kills the "
    "training without warning, and does the other four. Every byte is compared. What it writes is removed."
)
WORDS = {"running": "Testing", "same": "Passed", "different": "Not the same", "failed": "No result"}
SECONDS = 1.0


class ResumeTestPanel:
    """A button, and how far the test is."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.tester = ResumeTester(lambda: context.service.snapshot().is_active)
        gr.Markdown(WHAT_IT_IS)
        with gr.Row(elem_classes="ed-actions"):
            self.begin = gr.Button("Test resume", elem_id="test-resume-button", min_width=140)
            self.end = gr.Button("Stop the test", elem_id="stop-test-button", min_width=140, interactive=False)
        self.told = gr.HTML(shown_html(ShownTest()), js_on_load=None)
        self._timer = gr.Timer(SECONDS, active=False)

    def wire(self, form: Form, tab: gr.Tab) -> None:
        """Connect the buttons; a page that is opened later sees the test too."""
        self._form = form
        outputs = [self.told, self.begin, self.end, self._timer]
        self.begin.click(self._begin, form.inputs, outputs, **SPOKEN)
        self.end.click(lambda: self.tester.stop(), None, None, **QUIET)
        tab.select(self._now, None, outputs, **QUIET)
        self._timer.tick(self._now, None, outputs, **TICK)

    def _begin(self, *raw: Any) -> list[Any]:
        try:
            self.tester.start(self._context.require_allowed(self._form.values_of(raw)))
        except RefusedError as error:
            raise refusal(str(error)) from None
        except Ed2Error as error:
            return [shown_html(ShownTest("failed", str(error))), gr.skip(), gr.skip(), gr.skip()]
        return self._now()

    def _now(self) -> list[Any]:
        shown = self.tester.shown
        is_running = shown.state == "running"
        buttons = [gr.update(interactive=not is_running), gr.update(interactive=is_running)]
        return [shown_html(shown), *buttons, gr.Timer(active=is_running)]


def shown_html(shown: ShownTest) -> str:
    """How far the test is, in words."""
    text = escape(shown.text).replace("\n", "<br>")
    words = f"<strong>{WORDS[shown.state]}.</strong> {text}" if shown.state in WORDS else ""
    return f'<div id="resume-test" data-state="{shown.state}" role="status">{words}</div>'
