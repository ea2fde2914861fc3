"""The Resume tab: every run in the runs folder, to resume or to start from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.runs.records import RunRecord, find_run, find_runs
from ed2.app.snapshot import RunSnapshot
from ed2.settings.fields import label_of
from ed2.ui.compare_panel import ComparePanel
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.html import empty_html, escape, note_html
from ed2.ui.lora_panel import LoraPanel
from ed2.ui.page_state import PageState
from ed2.ui.queue_panel import QueuePanel
from ed2.ui.resume_test import ResumeTestPanel
from ed2.ui.run_html import runs_html
from ed2.ui.run_panel import RunPanel
from ed2.ui.run_starter import start_run
from ed2.ui.sampling_tab import SamplingTab
from ed2.ui.strip import Strip
from ed2.ui.wiring import FOLLOWING, SPOKEN, Updates, refusal, refusing

MAX_SHOWN = 100
NOT_SELECTED = "Select a run first."
IN_PROGRESS = "A run is in progress. Stop it, or wait until it ends, to resume another one."
NO_CHECKPOINT = "This run has no checkpoint, so it cannot be resumed or used as a base model."
ONLY_WEIGHTS = (
    "The checkpoints of this run contain only the weights. They can be used as a base model, but the run cannot be "
    "resumed."
)
IS_DONE = "All epochs of this run are done. Press Resume to keep training, up to the last epoch above."
STARTS_OVER = (
    f"The base model is now the newest checkpoint of this run, and “{label_of('weights_only')}” is on: training starts "
    "at step 0. Give the new run its own project name."
)
READING = "Reading the runs …"
NO_RUNS = (
    "No runs yet. Each run appears here once it has started, so that you can resume it, compare it with others, or use "
    "its checkpoints."
)
FILTER = (
    '<label class="ed-filter">Filter runs <input type="search" id="runs-filter" '
    'placeholder="name, folder, state or note"></label>'
)


class ResumeTab:
    """The list of runs; the selected one is looked up again on the disk, never trusted."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.queue = QueuePanel(context)
        gr.Markdown("### Runs")
        gr.HTML(FILTER, elem_id="runs-filter-box", js_on_load="ed.watchRunFilter(element)")
        js = "ed.watchRuns(element, trigger)"
        self.list = gr.HTML(empty_html(READING), elem_id="runs-list", js_on_load=js)
        with gr.Column(elem_id="with-runs"):  # not shown while the list is empty
            self.compare = ComparePanel(context)
            self._make_selected()
        self.test = ResumeTestPanel(context)
        # Never seen: its change event says that a run has started, paused or ended. gr.State has none (Gradio 6.31).
        self._phase = gr.HTML(_phase_html(RunSnapshot()), elem_id="resume-phase", js_on_load=None)

    def _make_selected(self) -> None:
        gr.Markdown("### Selected run")
        with gr.Row():
            self.choice = gr.Dropdown([], label="Run", elem_id="run-choice", interactive=True, scale=3, min_width=240)
            self.refresh = gr.Button("Refresh", elem_id="refresh-button", min_width=120, scale=0)
        self.last_epoch = gr.Number(
            label="Last epoch", precision=0, step=1, visible=False, interactive=True, elem_id="continue-epochs"
        )
        with gr.Row(elem_id="resume-actions", elem_classes="ed-actions"):
            self.resume = gr.Button("Resume", variant="primary", elem_id="continue-button", min_width=140)
            self.as_base = gr.Button("Use as base model", elem_id="use-as-base-button", min_width=140)
        self.note = gr.HTML("", elem_id="resume-note", js_on_load=None)
        self.page = RunPanel(self._context, above_page=self._make_lora)

    def _make_lora(self) -> None:
        self.lora = LoraPanel(self._context)

    @property
    def outputs(self) -> list[Any]:
        """What `updates` may change."""
        return [self._phase]

    def updates(self, shown: RunSnapshot, page: PageState) -> Updates:
        """Whether a run is in progress, here or elsewhere, and is paused; its change refreshes the list."""
        if (page.seen.get("state"), page.seen.get("elsewhere")) == (shown.state, shown.elsewhere):
            return {}
        return {self._phase: _phase_html(shown)}

    def wire(self, form: Form, strip: Strip, tabs: gr.Tabs, tab: gr.Tab, sampling: SamplingTab) -> None:
        """Connect the buttons, and fill the list whenever the tab is opened."""
        self._form, self._tabs, self._problems = form, tabs, strip.problems
        self.queued = self.queue.wire(form, strip, tabs, sampling)
        self.test.wire(form, tab, self._phase)
        selected = [form.controls["logdir"], self.choice]
        self.lora.wire(tab, self._phase, self._selected, selected)
        described = [self.resume, self.as_base, self.last_epoch, self.note, *self.lora.outputs]
        described += self.page.outputs

        def show_again(event: Any) -> None:
            """List the runs and describe the selected one, as an event or after one."""
            listed = event(self.list_runs, selected, [self.choice, self.list], **FOLLOWING)
            offered = listed.then(None, self.choice, self.choice, js="ed.offeredRun")
            offered.then(None, self.choice, None, js="ed.markRun")
            offered.then(self.describe, selected, described, **FOLLOWING)

        for event in (self.refresh.click, tab.select, self._phase.change):
            show_again(event)
        work_shown = (tab.select, self._phase.change)
        self.page.wire(form, tabs, work_shown, self._selected, selected, lambda event: show_again(event.success))
        self.compare.wire(form.controls["logdir"], self._place)
        self.list.click(None, self.choice, self.choice, js="ed.pressedRun")
        self.choice.change(None, self.choice, None, js="ed.markRun")
        self.choice.change(self.describe, selected, described, **FOLLOWING)
        self.resume.click(self.resume_run, [*selected, self.last_epoch], [tabs, strip.problems], **SPOKEN)
        base = [form.controls["resume_ckpt"], form.controls["weights_only"], tabs]
        self.used = self.as_base.click(self.use_as_base, selected, base, **SPOKEN)

    def list_runs(self, request: gr.Request, logdir: str, chosen: str | None) -> Updates:
        """The runs; the one of this program is selected once it ends, for a quick Resume."""
        runs = find_runs(*self._place(logdir), MAX_SHOWN)
        names = [run.folder.name for run in runs]
        shown, page = self._context.service.snapshot(), self._context.pages.of(request)
        own = ""
        if shown.run_dir and not shown.elsewhere:
            own = shown.run_dir.name
        is_new = bool(own) and page.listed_run != f"{own} {shown.is_active}"
        if own:
            page.listed_run = f"{own} {shown.is_active}"
        wanted = [chosen, *names[:1]]
        if is_new and not shown.is_active:
            wanted.insert(0, own)
        offered = next((name for name in wanted if name in names), "")
        return {self.choice: gr.update(choices=names), self.list: self._list_html(runs, chosen or "", offered or "")}

    def describe(self, request: gr.Request, logdir: str, name: str | None) -> Updates:
        """What can be done with the selected run, why the rest cannot, and its page."""
        folder, active = self._place(logdir)
        run = find_run(folder, name or "", active)
        page = self._context.pages.of(request)
        parts = {**self.lora.describe(page, run), **self.page.describe(page, run and self._now(run))}
        if run is None:
            off = gr.update(interactive=False)
            return {
                self.resume: off,
                self.as_base: off,
                self.last_epoch: _last_epoch(page, None),
                self.note: "",
                **parts,
            }
        note = reason = self._why_not_resume(run)
        is_done = run.state == "done" and not reason
        if is_done:
            note = IS_DONE
        return {
            self.resume: gr.update(interactive=not reason),
            self.as_base: gr.update(interactive=run.checkpoint is not None),
            self.last_epoch: _last_epoch(page, run if is_done else None),
            self.note: note_html(note),
            **parts,
        }

    def resume_run(self, logdir: str, name: str | None, last_epoch: float | None) -> Updates:
        """Resume the selected run, up to a later epoch if it is done."""
        run = self._selected(logdir, name)
        if reason := self._why_not_resume(run):
            raise refusal(reason)
        values: dict[str, object] = {"resume_ckpt": str(run.folder), "logdir": str(run.folder.parent)}
        if run.state == "done":
            if last_epoch is None or last_epoch <= run.max_epochs:
                raise refusal(f"All {run.max_epochs:,} epochs are done; enter a higher number to keep training.")
            values["max_epochs"] = int(last_epoch)
        return start_run(self._context, values, self._tabs, self._problems)

    def use_as_base(self, logdir: str, name: str | None) -> Updates:
        """Start a new run from the weights of the selected one."""
        run = self._selected(logdir, name)
        if run.checkpoint is None:
            raise refusal("This run has no checkpoint.")
        gr.Info(STARTS_OVER, duration=8)
        controls = self._form.controls
        base = {controls["resume_ckpt"]: str(run.checkpoint), controls["weights_only"]: True}
        return {**base, self._tabs: gr.Tabs(selected="settings")}

    def _place(self, logdir: str) -> tuple[Path, Path | None]:
        """The runs folder, and the folder of the run in progress."""
        with refusing():
            folder = self._context.logdir({"logdir": logdir})
        shown = self._context.service.snapshot()
        return folder, shown.run_dir if shown.is_active else None

    def _selected(self, logdir: str, name: str | None) -> RunRecord:
        folder, active = self._place(logdir)
        run = find_run(folder, name or "", active)
        if run is None:
            raise refusal(NOT_SELECTED)
        return run

    def _why_not_resume(self, run: RunRecord) -> str:
        """Why a run cannot be resumed now; empty if it can."""
        if self._context.service.snapshot().is_active:
            return IN_PROGRESS
        if run.trainer:
            return f"This run is being trained in {run.trainer.name}. Stop it there, or wait until it ends."
        if run.checkpoint is None:
            return NO_CHECKPOINT
        if run.resume_step is None:
            return ONLY_WEIGHTS
        return ""

    def _list_html(self, runs: Sequence[RunRecord], asked: str, offered: str) -> str:
        if not runs:
            return empty_html(NO_RUNS)
        return runs_html([self._now(run) for run in runs], self._context.thumbs, asked, offered)

    def _now(self, run: RunRecord) -> RunRecord:
        """The run in progress as it is now: its folder tells neither a pause nor steps that were not logged."""
        shown = self._context.service.snapshot()
        if not shown.is_active or run.folder != shown.run_dir:
            return run
        state = "paused" if shown.state == "paused" else run.state
        return replace(run, state=state, step=max(run.step, shown.step))


def _last_epoch(page: PageState, finished: RunRecord | None) -> Any:
    """The field for a later last epoch of a finished run; what was typed stays while that run is described again."""
    offered = (str(finished.folder), finished.max_epochs) if finished else ("", 0)
    is_same, page.offered_epochs = page.offered_epochs == offered, offered
    if finished is None:
        return gr.update(value=None, visible=False)
    if is_same:
        return gr.update(visible=True)
    return gr.update(value=finished.max_epochs + max(1, finished.max_epochs // 2), visible=True)


def _phase_html(shown: RunSnapshot) -> str:
    phase = shown.elsewhere
    if shown.state == "paused":
        phase = "paused"
    elif shown.is_active:
        phase = "running"
    return f'<i data-phase="{escape(phase)}"></i>'
