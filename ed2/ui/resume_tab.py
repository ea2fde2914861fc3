"""The tab Resume: every run in the logs, to go on with or to start from."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.reporters.texts import file_size
from ed2.app.runs import RunRecord, find_runs, run_named
from ed2.errors import Ed2Error
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.keep import KeepPanel
from ed2.ui.live import QUIET, SPOKEN, refusal
from ed2.ui.resume_test import ResumeTestPanel
from ed2.ui.strip import Strip, started
from ed2.ui.words import empty_html, label_of

MAX_SHOWN = 100
NO_RUNS = "No runs yet: they appear here as soon as one was started."
CHOOSE = """element.addEventListener('click', event => {
  const card = event.target.closest('[data-run]');
  if (card) trigger('click', {run: card.dataset.run});
})"""
"""A run that is pressed is the chosen one."""
MARK = """name => { for (const card of document.querySelectorAll('#runs-list [data-run]'))
  card.classList.toggle('ed-chosen', card.dataset.run === name); }"""


class ResumeTab:
    """The list of runs; what is chosen is looked up again on the disk, never believed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        with gr.Row():
            self.choice = gr.Dropdown([], label="Run", elem_id="run-choice", interactive=True, scale=3, min_width=240)
            self.refresh = gr.Button("Refresh", elem_id="refresh-button", min_width=120, scale=1)
        with gr.Row(elem_id="resume-actions", elem_classes="ed-actions"):
            self.go_on = gr.Button("Continue", variant="primary", elem_id="continue-button", min_width=140)
            self.as_base = gr.Button("Use as base model", elem_id="use-as-base-button", min_width=140)
        self.list = gr.HTML(empty_html(NO_RUNS), elem_id="runs-list", js_on_load=CHOOSE)
        self.keep = KeepPanel()
        self.test = ResumeTestPanel(context)

    def wire(self, form: Form, strip: Strip, tabs: gr.Tabs, tab: gr.Tab) -> None:
        """Connect the buttons, and fill the list whenever the tab is opened."""
        self.test.wire(form, tab)
        logdir = form.controls["logdir"]
        for event in (self.refresh.click, tab.select):
            filled = event(self._fill, [logdir, self.choice], [self.choice, self.list], **SPOKEN)
            filled.then(None, self.choice, None, js=MARK)
            filled.then(self._kept, [logdir, self.choice], self.keep.outputs, **SPOKEN)
        self.list.click(self._pressed, None, self.choice, **QUIET)
        self.choice.change(None, self.choice, None, js=MARK)
        self.choice.change(self._kept, [logdir, self.choice], self.keep.outputs, **SPOKEN)
        marking = [logdir, self.choice, self.keep.seen, self.keep.boxes]
        self.keep.boxes.input(self._keep, marking, self.keep.outputs, **SPOKEN)
        self.go_on.click(self._continue, [logdir, self.choice], [tabs, strip.problems], **SPOKEN)
        base = [form.controls["resume_ckpt"], form.controls["weights_only"], tabs]
        self.used = self.as_base.click(self._use, [logdir, self.choice], base, **SPOKEN)

    def _place(self, logdir: str) -> tuple[Path, Path | None]:
        """The folder of runs, and that of the run which is going on."""
        try:
            folder = self._context.logdir(self._context.require_allowed({"logdir": logdir}))
        except Ed2Error as error:
            raise refusal(str(error)) from None
        shown = self._context.service.snapshot()
        return folder, shown.run_dir if shown.is_active else None

    def _pressed(self, event: gr.EventData) -> Any:
        name = getattr(event, "run", None)
        return name if isinstance(name, str) else gr.skip()

    def _fill(self, logdir: str, chosen: str | None) -> tuple[Any, str]:
        runs = find_runs(*self._place(logdir), MAX_SHOWN)
        names = [run.folder.name for run in runs]
        cards = "".join(self._card(run) for run in runs)
        html = f'<ul class="ed-grid ed-runs">{cards}</ul>' if runs else empty_html(NO_RUNS)
        return gr.update(choices=names, value=chosen if chosen in names else (names[0] if names else None)), html

    def _card(self, run: RunRecord) -> str:
        address = self._context.thumbs.address(run.last_sample) if run.last_sample else ""
        name = escape(run.folder.name)
        picture = f'<img src="{address}" alt="Last sample of {name}" loading="lazy">' if address else ""
        loss = f" · loss {run.loss:.4f}" if run.loss is not None else ""
        can = "can be continued" if run.can_continue else "no checkpoint to continue"
        where = f" in {run.trainer.name}" if run.trainer else ""
        return (
            f'<li data-run="{name}" data-state="{run.state}"><button type="button" aria-label="Choose {name}">{picture}'
            f'<div class="ed-caption"><strong>{name}</strong><br><span class="ed-badge">{run.state}{where}</span> '
            f"step {run.step:,} of {run.total:,}{loss}<br>"
            f"<small>{run.begun_at:%Y-%m-%d %H:%M} · {file_size(run.size_bytes)} · {can}</small></div></button></li>"
        )

    def _chosen(self, logdir: str, name: str | None) -> RunRecord:
        folder, live = self._place(logdir)
        run = run_named(folder, name or "", live)
        if run is None:
            raise refusal("Choose a run of the list first.")
        return run

    def _kept(self, logdir: str, name: str | None) -> Any:
        folder, live = self._place(logdir)
        return self.keep.shown(run_named(folder, name or "", live))

    def _keep(self, logdir: str, name: str | None, seen: tuple[str, ...], wanted: list[str]) -> Any:
        run = self._chosen(logdir, name)
        self.keep.mark(run, seen, wanted)
        return self.keep.shown(run)

    def _continue(self, logdir: str, name: str | None) -> tuple[Any, str]:
        run = self._chosen(logdir, name)
        if run.trainer:
            raise refusal(f"This run goes on in {run.trainer.name}: wait for its end or stop it there.")
        if not run.can_continue:
            raise refusal("This run has no checkpoint that it can continue from.")
        return started(self._context, {"resume_ckpt": str(run.folder), "logdir": str(Path(run.folder).parent)})

    def _use(self, logdir: str, name: str | None) -> tuple[str, bool, Any]:
        run = self._chosen(logdir, name)
        if run.checkpoint is None:
            raise refusal("This run has no checkpoint.")
        gr.Info(
            f"The newest checkpoint of this run is now the base model, and “{label_of('weights_only')}” is set: "
            f"training begins anew at step 0. Give it a {label_of('project_name')} of its own.",
            duration=8,
        )
        return str(run.checkpoint), True, gr.Tabs(selected="settings")
