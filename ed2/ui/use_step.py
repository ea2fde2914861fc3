"""*Use this step*: protects the checkpoint nearest to a sample's step, and offers what can be done with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.page.checkpoint_work import CheckpointWork
from ed2.app.runs.records import nearest_checkpoint
from ed2.app.snapshot import RunSnapshot
from ed2.checkpoint.identity import TRAINING_STATE, age, checkpoints_of, pin
from ed2.text import counted
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.html import escape, note_html
from ed2.ui.run_html import work_html
from ed2.ui.wiring import QUIET, SPOKEN, TICK, Updates, refusal, refusing

NOT_SHOWN = "These samples are no longer shown. Choose one of the present run."
GONE = "This checkpoint is no longer there. Press Use this step again."
NONE_YET = "This run has no checkpoint yet. Save now makes one at the present step; then press Use this step again."
NO_CHECKPOINT = "This run has no checkpoint."
PROTECTED = "It is now protected: keep_last never removes it."
UNPROTECT = " Unprotect it in the Resume tab."
CONTINUES = (
    "Press Train to continue from step {step:,} with the settings in the form. If the run has a newer checkpoint, or "
    "images or settings differ, the rest is trained in a new folder."
)
STARTS_OVER = (
    "This checkpoint has only the weights: training starts at step 0. Give the new run its own project name, then "
    "press Train."
)
COMPARES = "This run is selected. Check the boxes of one to three others, then press Compare selected."
TICK_SECONDS = 1.0


class UseStepPanel:
    """What *Use this step* found; create it under the samples. The checkpoint is looked up again, never trusted."""

    def __init__(self, context: Context) -> None:
        self._context = context
        with gr.Column(visible=False, elem_classes="ed-card", elem_id="use-step") as self.card:
            self.found = gr.HTML("", js_on_load=None, elem_id="used-checkpoint")
            with gr.Row(visible=False, elem_classes="ed-actions") as self.actions:
                self.export = gr.Button("Export single file", elem_id="use-export-button", min_width=140)
                self.resume = gr.Button("Continue from it", elem_id="use-continue-button", min_width=140)
                self.compare = gr.Button("Compare this run", elem_id="use-compare-button", min_width=140)
            self.result = gr.HTML("", js_on_load=None, elem_id="use-result")
            with gr.Row(elem_classes="ed-actions"):
                self.close = gr.Button("Close", elem_id="use-close-button", min_width=120)
        self._timer = gr.Timer(TICK_SECONDS, active=False)

    def wire(self, gallery: gr.HTML, form: Form, tabs: gr.Tabs, work: CheckpointWork) -> Any:
        """Connect the buttons; returns the event that changes the form.

        Args:
            gallery: its click says which step is to be used.
            form: what *Continue from it* fills in.
            tabs: of the page.
            work: what exports.
        """
        self._controls, self._tabs, self._work = form.controls, tabs, work
        working = [self.result, self._timer]
        used = gallery.click(self.use, None, [self.card, self.found, self.actions, self.result], **SPOKEN)
        used.success(None, None, None, js="ed.showUsedStep")
        self.export.click(self.export_file, None, working, **SPOKEN)
        self._timer.tick(self.show_work, None, working, **TICK)
        self.compare.click(self.open_comparison, None, tabs, js="ed.pickUsedRun", **SPOKEN)
        self.close.click(lambda: gr.update(visible=False), None, self.card, **QUIET)
        filled = [form.controls["resume_ckpt"], form.controls["weights_only"], tabs]
        return self.resume.click(self.continue_from, None, filled, **SPOKEN)

    def use(self, request: gr.Request, event: gr.EventData) -> Updates:
        """Protect the checkpoint nearest to the step of a sample of the run that is shown, and say which it is."""
        shown, step = self._context.service.snapshot(), getattr(event, "step", None)
        if not isinstance(step, int) or shown.run_dir is None or step not in {one.step for one in shown.samples}:
            raise refusal(NOT_SHOWN)
        checkpoint = nearest_checkpoint(shown.run_dir, step)
        page = self._context.pages.of(request)
        page.used_checkpoint = str(checkpoint or "")
        if checkpoint is None:
            html = note_html(NONE_YET if shown.allows("save now") else NO_CHECKPOINT)
        else:
            html = protected_html(checkpoint, step, shown, UNPROTECT)
        return {
            self.card: gr.update(visible=True),
            self.found: html,
            self.actions: gr.update(visible=checkpoint is not None),
            self.result: "",
        }

    def export_file(self, request: gr.Request) -> Updates:
        """Write the single file of the checkpoint."""
        with refusing():
            self._work.export(self._used(request))
        return self.show_work()

    def show_work(self) -> Updates:
        """How far the export is."""
        shown = self._work.shown
        return {self.result: work_html(shown, ""), self._timer: gr.Timer(active=shown.state == "running")}

    def continue_from(self, request: gr.Request) -> Updates:
        """Set the form so that the next run begins with this checkpoint."""
        return continuing(self._used(request), self._controls, self._tabs)

    def open_comparison(self) -> gr.Tabs:
        """Open the list of runs, where the browser has checked the box of this run."""
        gr.Info(COMPARES, duration=8)
        return gr.Tabs(selected="resume")

    def _used(self, request: gr.Request) -> Path:
        checkpoint = Path(self._context.pages.of(request).used_checkpoint)
        if checkpoint not in checkpoints_of(checkpoint.parent.parent):
            raise refusal(GONE)
        return checkpoint


def protected_html(checkpoint: Path, step: int, shown: RunSnapshot, how_undone: str = "") -> str:
    """Protect the checkpoint nearest to a sample's step, and say which it is, and `how_undone` if it is elsewhere."""
    with refusing("The checkpoint could not be protected"):
        pin(checkpoint, is_wanted=True)
    return used_html(checkpoint, step, shown, how_undone)


def continuing(checkpoint: Path, controls: Mapping[str, Any], tabs: gr.Tabs) -> Updates:
    """Set the form so that the next run begins with this checkpoint, and open it."""
    has_state = (checkpoint / TRAINING_STATE).is_dir()
    gr.Info(CONTINUES.format(step=age(checkpoint)[0]) if has_state else STARTS_OVER, duration=10)
    return {
        controls["resume_ckpt"]: str(checkpoint),
        controls["weights_only"]: not has_state,
        tabs: gr.Tabs(selected="settings"),
    }


def used_html(checkpoint: Path, step: int, shown: RunSnapshot, how_undone: str) -> str:
    """Which checkpoint it is, and how far from the sample's step."""
    own = age(checkpoint)[0]
    away = f"step {own:,}, the step of the sample"
    if own != step:
        side = "before" if own < step else "after"
        away = f"step {own:,}, {counted(abs(own - step), 'step')} {side} the sample (step {step:,})"
    note = PROTECTED + how_undone
    if shown.allows("save now") and abs(shown.step - step) < abs(own - step):
        note += f" Save now makes one that is nearer, at step {shown.step:,}."
    name, run = escape(checkpoint.name), escape(checkpoint.parent.parent.name)
    return f'<p data-used-run="{run}"><strong>{name}</strong><br>{away}</p>{note_html(note)}'
