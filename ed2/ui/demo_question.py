"""Asks beside images and base model whether a run of one's own should begin with the demo's settings."""

import contextlib
from typing import Any

import gradio as gr

from ed2.ui.context import Context
from ed2.ui.form import Form, defaults
from ed2.ui.html import note_html
from ed2.ui.page_state import PageState
from ed2.ui.wiring import QUIET, Updates, fill

QUESTION = (
    "You trained the demo before. Its settings suit a tiny model, so this run begins with fresh ones. Use the demo's "
    "settings instead?"
)
NAMES = ("project_name", "sample_prompts")
"""What the demo names that another run should not keep."""


class DemoQuestion:
    """The question, once in each tab that it is asked in; the demo's settings reach no other run before a yes."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        self._rows: list[Any] = []
        self._yes: list[Any] = []
        self._no: list[Any] = []

    def add(self, name: str) -> None:
        """Make it here; the name of the tab ends its ids."""
        with gr.Row(visible=False, elem_id=f"demo-question-{name}", elem_classes="ed-actions ed-asked") as row:
            gr.HTML(note_html(QUESTION), js_on_load=None)
            self._yes.append(gr.Button("Use the demo's settings", elem_id=f"demo-settings-{name}", min_width=180))
            self._no.append(gr.Button("Keep fresh settings", elem_id=f"fresh-settings-{name}", min_width=160))
        self._rows.append(row)

    @property
    def outputs(self) -> list[Any]:
        """What `updates` may change."""
        return self._rows

    def seen(self) -> bool:
        """Whether it is asked now."""
        return self._context.demo_settings.asks_about(self._context.form_values())

    def updates(self, page: PageState, is_asked: object) -> Updates:
        """Show or hide it."""
        if page.seen.get("demo") == is_asked:
            return {}
        return {row: gr.update(visible=bool(is_asked)) for row in self._rows}

    def wire(self) -> list[Any]:
        """Connect the buttons, once every control of the form is made.

        Returns:
            The events that change the form.
        """
        inputs, rows = self._form.inputs, self._rows
        events = [fill(button.click, self.use_demo, inputs, inputs, rows, **QUIET) for button in self._yes]
        for button in self._no:
            button.click(self.keep_fresh, None, rows, **QUIET)
        changes = [self._form.controls[name].change for name in ("data_root", "resume_ckpt")]

        def change(*given: Any, **how: Any) -> Any:
            return gr.on(changes, *given, trigger_mode="always_last", **how)

        return [*events, fill(change, self.stop_leak, inputs, inputs, **QUIET)]

    def use_demo(self, _: gr.Request, *raw: Any) -> Updates:
        """Put the demo's settings into the form, but not what belongs to its run."""
        return {**self._form.show(self._context.demo_settings.tuned), **self._answer(is_wanted=True)}

    def keep_fresh(self) -> Updates:
        """Ask no more."""
        return self._answer(is_wanted=False)

    def _answer(self, *, is_wanted: bool) -> Updates:
        with contextlib.suppress(OSError):
            self._context.demo_settings.answered(is_wanted=is_wanted)
        return {row: gr.update(visible=False) for row in self._rows}

    def stop_leak(self, _: gr.Request, *raw: Any) -> Updates:
        """Fresh settings where a form that held the demo's names other images or another base now."""
        demo, held = self._context.demo_settings, self._form.read(raw)
        if not demo.leaked_into(held):
            return {}
        with contextlib.suppress(OSError):
            demo.trained()
        names = [*demo.tuned, *(name for name in NAMES if held.get(name) == demo.named.get(name))]
        fresh = defaults()
        return self._form.show({name: fresh[name] for name in names})
