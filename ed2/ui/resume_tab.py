"""The tab Resume: every run in the logs, to go on with or to start from."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.runs.records import RunRecord, checkpoints_of, find_run, find_runs
from ed2.app.snapshot import RunSnapshot
from ed2.checkpoint.identity import is_pinned, pin
from ed2.disk import plain_reason
from ed2.errors import Ed2Error
from ed2.settings.fields import label_of
from ed2.text import file_size
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.html import empty_html
from ed2.ui.live import Seen
from ed2.ui.resume_test import ResumeTestPanel
from ed2.ui.strip import Strip, started
from ed2.ui.wiring import SPOKEN, refusal

MAX_SHOWN = 100
UNCHOSEN = "Choose a run of the list first."
A_RUN_GOES_ON = "A run is going on: wait for its end, or stop it, to continue one here."
NO_CHECKPOINT = "This run has no checkpoint: it can neither be continued nor be used as base model."
WEIGHTS_ALONE = "The checkpoints of this run hold the weights alone: use one as base model; it cannot be continued."
IS_DONE = "This run has done all its epochs. To train it further, say above up to which epoch, and press Continue."
NO_RUNS = "No runs yet: they appear here as soon as one was started."
CHOOSE = """element.addEventListener('click', event => {
  const card = event.target.closest('[data-run]');
  if (!card) return;
  for (const other of element.querySelectorAll('[data-run]')) other.classList.toggle('ed-chosen', other === card);
  trigger('click');
})"""
CHOSEN = "chosen => document.querySelector('#runs-list .ed-chosen')?.dataset.run ?? chosen"
"""A run that is pressed is the chosen one, at once: nobody waits for an answer, and none can come too late."""
OFFER = """chosen => { const list = document.querySelector('#runs-list ul'); if (!list) return null;
  const runs = [...list.children].map(card => card.dataset.run);
  return runs.includes(chosen) && chosen !== list.dataset.asked ? chosen : list.dataset.offered; }"""
"""The run that the list offers, unless another was chosen since the list was asked for."""
MARK = """name => { for (const card of document.querySelectorAll('#runs-list [data-run]'))
  card.classList.toggle('ed-chosen', card.dataset.run === name); }"""
WHAT_IT_IS = "What is ticked is never removed nor thinned, whatever keep_last says. It gets a file named KEEP."


class KeepPanel:
    """One box for each checkpoint; what is marked is looked up on the disk, never believed."""

    def __init__(self) -> None:
        self.boxes = gr.CheckboxGroup(
            [], label="Checkpoints to keep", info=WHAT_IT_IS, elem_id="keep-checkpoints", visible=False
        )
        self.seen = gr.State(())
        """What was marked when the boxes were last shown: a mark made elsewhere since then is not undone."""

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `shown` fills."""
        return [self.boxes, self.seen]

    def shown(self, run: RunRecord | None) -> tuple[Any, tuple[str, ...]]:
        """The boxes of a run, the newest first, and what is marked; no boxes where it has no checkpoints."""
        found = checkpoints_of(run.folder) if run else []
        names = [checkpoint.name for checkpoint in reversed(found)]
        marked = tuple(checkpoint.name for checkpoint in found if is_pinned(checkpoint))
        return gr.update(choices=names, value=list(marked), visible=bool(found)), marked

    def mark(self, run: RunRecord, seen: Sequence[str], wanted: Sequence[str]) -> None:
        """Mark the checkpoints whose box was set since they were shown, and unmark those whose box was cleared."""
        changed = set(seen) ^ set(wanted)
        try:
            for checkpoint in checkpoints_of(run.folder):
                if checkpoint.name in changed:
                    pin(checkpoint, checkpoint.name in wanted)
        except OSError as error:
            raise refusal(f"It could not be marked: {plain_reason(error)}.") from None


class ResumeTab:
    """The list of runs; what is chosen is looked up again on the disk, never believed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        with gr.Row():
            self.choice = gr.Dropdown([], label="Run", elem_id="run-choice", interactive=True, scale=3, min_width=240)
            self.refresh = gr.Button("Refresh", elem_id="refresh-button", min_width=120, scale=0)
        self.more = gr.Number(label="Train on up to epoch", precision=0, step=1, visible=False, interactive=True,
                              elem_id="continue-epochs")  # fmt: skip
        with gr.Row(elem_id="resume-actions", elem_classes="ed-actions"):
            self.go_on = gr.Button("Continue", variant="primary", elem_id="continue-button", min_width=140)
            self.as_base = gr.Button("Use as base model", elem_id="use-as-base-button", min_width=140)
        self.why = gr.HTML("", elem_id="resume-note", js_on_load=None)
        self.list = gr.HTML(empty_html(NO_RUNS), elem_id="runs-list", js_on_load=CHOOSE)
        self._told = gr.State("")
        """The run of this program that the list knew of, and whether it went on."""
        self.keep = KeepPanel()
        self.test = ResumeTestPanel(context)
        self._phase = gr.HTML(_phase(RunSnapshot()), elem_id="resume-phase", js_on_load=None)
        """What is going on, as far as it matters here; never seen. A state would tell of no change (Gradio 6.31)."""

    @property
    def outputs(self) -> list[Any]:
        """What `updates` gives values for."""
        return [self._phase]

    def updates(self, shown: RunSnapshot, seen: Seen) -> list[Any]:
        """Whether a run goes on, here or elsewhere, and is paused; the list is read again when that changes."""
        is_as_before = (seen.get("state"), seen.get("elsewhere")) == (shown.state, shown.elsewhere)
        return [gr.skip() if is_as_before else _phase(shown)]

    def wire(self, form: Form, strip: Strip, tabs: gr.Tabs, tab: gr.Tab) -> None:
        """Connect the buttons, and fill the list whenever the tab is opened."""
        self.test.wire(form, tab, self._phase)
        logdir = form.controls["logdir"]
        allowed = [self.go_on, self.as_base, self.more, self.why, *self.keep.outputs]
        for event in (self.refresh.click, tab.select, self._phase.change):
            filled = event(
                self._fill, [logdir, self.choice, self._told], [self.choice, self.list, self._told], **SPOKEN
            )
            offered = filled.then(None, self.choice, self.choice, js=OFFER)
            offered.then(None, self.choice, None, js=MARK)
            offered.then(self._allowed, [logdir, self.choice], allowed, **SPOKEN)
        self.list.click(None, self.choice, self.choice, js=CHOSEN)
        self.choice.change(None, self.choice, None, js=MARK)
        self.choice.change(self._allowed, [logdir, self.choice], allowed, **SPOKEN)
        marking = [logdir, self.choice, self.keep.seen, self.keep.boxes]
        self.keep.boxes.input(self._keep, marking, self.keep.outputs, **SPOKEN)
        self.go_on.click(self._continue, [logdir, self.choice, self.more], [tabs, strip.problems], **SPOKEN)
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

    def _fill(self, logdir: str, chosen: str | None, told: str = "") -> tuple[Any, str, str]:
        """The list; a run of this program that has ended since is the chosen one: a hasty Continue is meant for it."""
        runs = find_runs(*self._place(logdir), MAX_SHOWN)
        names = [run.folder.name for run in runs]
        shown = self._context.service.snapshot()
        own = shown.run_dir.name if shown.run_dir and not shown.elsewhere else ""
        now = f"{own} {shown.is_active}" if own else told
        wanted = [own if now != told and not shown.is_active else "", chosen, *names[:1]]
        offered = next((name for name in wanted if name in names), "")
        return gr.update(choices=names), self._cards(runs, chosen or "", offered), now

    def _cards(self, runs: Sequence[RunRecord], asked: str, offered: str) -> str:
        """The list, with the run that was chosen when it was asked for and the one that it offers."""
        if not runs:
            return empty_html(NO_RUNS)
        cards = "".join(self._card(run) for run in runs)
        return f'<ul class="ed-grid ed-runs" data-asked="{escape(asked)}" data-offered="{escape(offered)}">{cards}</ul>'

    def _card(self, run: RunRecord) -> str:
        address = self._context.thumbs.address(run.last_sample) if run.last_sample else ""
        name = escape(run.folder.name)
        image = f'<img src="{address}" alt="Last sample of {name}" loading="lazy">' if address else ""
        loss = f" · loss {run.loss:.4f}" if run.loss is not None else ""
        can = _how_far_back(run)
        where = f" in {run.trainer.name}" if run.trainer else ""
        state = self._state_of(run)
        return (
            f'<li data-run="{name}" data-state="{state}"><button type="button" aria-label="Choose {name}">{image}'
            f'<div class="ed-caption"><strong>{name}</strong><br><span class="ed-badge">{state}</span>{where} '
            f"{'<br>' if where else ''}step {run.step:,} of {run.total:,}{loss}<br>"
            f"<small>{run.begun_at:%Y-%m-%d %H:%M} · {file_size(run.size_bytes)} · {can}</small></div></button></li>"
        )

    def _state_of(self, run: RunRecord) -> str:
        """The state of a run in a word; one that is paused is running, but not on its way."""
        is_paused = run.state == "running" and not run.trainer and self._context.service.snapshot().state == "paused"
        return "paused" if is_paused else run.state

    def _chosen(self, logdir: str, name: str | None) -> RunRecord:
        folder, live = self._place(logdir)
        run = find_run(folder, name or "", live)
        if run is None:
            raise refusal(UNCHOSEN)
        return run

    def _allowed(self, logdir: str, name: str | None) -> list[Any]:
        """What can be done with the chosen run, why not the rest, and its checkpoints to keep."""
        folder, live = self._place(logdir)
        run = find_run(folder, name or "", live)
        why = self._why_not_continue(run) if run else ""
        is_done = run is not None and run.state == "done" and not why
        note = why or (IS_DONE if is_done else "")
        return [
            gr.update(interactive=run is not None and not why),
            gr.update(interactive=run is not None and run.checkpoint is not None),
            gr.update(visible=is_done, value=run.max_epochs + max(1, run.max_epochs // 2) if run and is_done else None),
            f'<p class="ed-note">{escape(note)}</p>' if note else "",
            *self.keep.shown(run),
        ]

    def _why_not_continue(self, run: RunRecord) -> str:
        """Why a run cannot be continued now; empty where it can."""
        if self._context.service.snapshot().is_active:
            return A_RUN_GOES_ON
        if run.trainer:
            return f"This run goes on in {run.trainer.name}: wait for its end or stop it there."
        if run.can_continue:
            return ""
        return WEIGHTS_ALONE if run.checkpoint else NO_CHECKPOINT

    def _keep(self, logdir: str, name: str | None, seen: tuple[str, ...], wanted: list[str]) -> Any:
        run = self._chosen(logdir, name)
        self.keep.mark(run, seen, wanted)
        return self.keep.shown(run)

    def _continue(self, logdir: str, name: str | None, up_to: float | None) -> tuple[Any, str]:
        run = self._chosen(logdir, name)
        if why := self._why_not_continue(run):
            raise refusal(why)
        values: dict[str, object] = {"resume_ckpt": str(run.folder), "logdir": str(run.folder.parent)}
        if run.state == "done":
            if up_to is None or up_to <= run.max_epochs:
                raise refusal(f"This run has done its {run.max_epochs:,} epochs: say a higher number to train it on.")
            values["max_epochs"] = int(up_to)
        return started(self._context, values)

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


def _how_far_back(run: RunRecord) -> str:
    """Whether a run can be continued, and from where if steps that it did are in no checkpoint."""
    if run.resume_step is None:
        return "no checkpoint to continue"
    if run.state == "running" or run.resume_step >= run.step:
        return "can be continued"
    return f"continues from step {run.resume_step:,}, its last checkpoint"


def _phase(shown: RunSnapshot) -> str:
    phase = shown.elsewhere if not shown.is_active else "paused" if shown.state == "paused" else "running"
    return f'<i data-phase="{escape(phase)}"></i>'
