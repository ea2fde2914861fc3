"""The page of the selected run: curves, samples, checkpoints and settings, its name and notes, report and deletion."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.page.checkpoint_work import CheckpointWork, WorkStatus
from ed2.app.runs.facts import RunFacts
from ed2.app.runs.records import MAX_NAME, MAX_TEXT, RunNotes, RunRecord, nearest_checkpoint, replay_run, saved_size
from ed2.app.runs.removing import is_last_checkpoint, remove_checkpoint, remove_run
from ed2.checkpoint.identity import checkpoints_of, pin
from ed2.disk_errors import plain_reason
from ed2.text import counted, file_size
from ed2.ui.context import Context
from ed2.ui.form import Form
from ed2.ui.html import escape, note_html
from ed2.ui.page_state import DeletionAsked, PageState
from ed2.ui.report import write_report
from ed2.ui.run_html import run_page_html, work_html
from ed2.ui.use_step import NO_CHECKPOINT, continuing, protected_html
from ed2.ui.wiring import QUIET, SLOW, SPOKEN, TICK, Updates, refusal, refusing

FindRun = Callable[[str, str | None], RunRecord]
NO_SUCH_CHECKPOINT = "This checkpoint is no longer there. Press Refresh."
NOTHING_ASKED = "The question is out of date. Press Delete again."
NO_PROMPT = "Type a prompt first."
NO_SAMPLE = "The run has no samples of this step."
TICK_SECONDS = 1.0
DEFAULT_CFG = 7.0
PINS = {"protect": True, "unprotect": False}
"""What these acts make of a checkpoint's protection."""


class RunPanel:
    """What is shown of the selected run, and what can be done with it; it is looked up again, never trusted."""

    def __init__(self, context: Context, above_page: Callable[[], object] = lambda: None) -> None:
        """Show it; `above_page` creates what stands between the buttons and the curves."""
        self._context, service = context, context.service
        self.work = CheckpointWork(lambda: service.snapshot().is_active, service.read_libraries)
        with gr.Row(elem_id="run-actions", elem_classes="ed-actions"):
            self.report = gr.Button("Write report", elem_id="report-button", min_width=120)
            self.folder = gr.Button("Open folder", elem_id="open-folder-button", min_width=120)
            self.copy = gr.Button("Copy path", elem_id="copy-path-button", min_width=120)
            self.delete = gr.Button("Delete run", elem_id="delete-run-button", variant="stop", min_width=120)
        with gr.Row(visible=False, elem_id="delete-question", elem_classes="ed-actions ed-asked") as self.question:
            self.asked = gr.HTML("", js_on_load=None)
            self.confirm = gr.Button("Delete", variant="stop", elem_id="confirm-delete-button", min_width=120)
            self.cancel = gr.Button("Keep", elem_id="keep-run-button", min_width=120)
        self.answer = gr.HTML("", elem_id="run-answer", js_on_load=None)
        with gr.Accordion("Name and notes", open=False, elem_id="run-notes"):
            self.name = gr.Textbox(label="Shown name", max_length=MAX_NAME, max_lines=1, elem_id="run-name")
            self.text = gr.Textbox(label="Notes", max_length=MAX_TEXT, lines=3, max_lines=12, elem_id="run-text")
            self.save = gr.Button("Save name and notes", elem_id="save-notes-button", min_width=160)
        above_page()
        self.view = gr.HTML("", elem_id="run-page", js_on_load="ed.watchRunPage(element, trigger)")
        with gr.Column(visible=False, elem_classes="ed-card", elem_id="try-card") as self.card:
            self.chosen = gr.Dropdown([], label="Checkpoint to try", elem_id="try-checkpoint", interactive=True)
            self.prompt = gr.Textbox(label="Prompt", max_lines=3, max_length=2000, elem_id="try-prompt")
            with gr.Row():
                self.seed = gr.Number(1, label="Seed", precision=0, step=1, elem_id="try-seed", min_width=120)
                self.cfg = gr.Number(DEFAULT_CFG, label="CFG", step=0.5, elem_id="try-cfg", min_width=120)
            with gr.Row(elem_classes="ed-actions"):
                self.draw = gr.Button("Draw image", elem_id="try-button", min_width=140)
        with gr.Row(elem_classes="ed-actions"):
            self.stop = gr.Button("Stop this", elem_id="stop-work-button", visible=False, min_width=140)
        self.result = gr.HTML(work_html(WorkStatus(), ""), elem_id="checkpoint-work", js_on_load=None)
        self._timer = gr.Timer(TICK_SECONDS, active=False)

    @property
    def outputs(self) -> list[Any]:
        """What `describe` may change."""
        parts = [self.view, self.report, self.folder, self.copy, self.delete, self.question, self.answer]
        return [*parts, self.name, self.text, self.save, self.card, self.chosen, *self._working]

    @property
    def _working(self) -> list[Any]:
        return [self.result, self.stop, self._timer]

    def wire(
        self,
        form: Form,
        tabs: gr.Tabs,
        shown_on: Sequence[Callable[..., Any]],
        find: FindRun,
        selected: list[Any],
        again: Callable[[Any], None],
    ) -> None:
        """Connect the buttons.

        Args:
            form: what *Continue from it* fills in.
            tabs: of the page.
            shown_on: the events that show the work in progress: the tab is opened, a run starts or ends.
            find: gives the selected run, from the values of `selected`; raises gr.Error if none is selected.
            selected: the controls that say which run is selected.
            again: shows the list and the selected run again after an event.
        """
        self._find = find
        asked = [self.question, self.asked, self.confirm]
        self.report.click(self.write_report, selected, self.answer, **SLOW)
        self.folder.click(self.open_folder, selected, None, **SPOKEN)
        self.copy.click(None, None, None, js="ed.copyRunPath")
        self.delete.click(self.ask_run, selected, asked, **SPOKEN)
        self._controls, self._tabs = form.controls, tabs
        filled = [form.controls["resume_ckpt"], form.controls["weights_only"], tabs]
        changed = [*asked, self.card, self.chosen, self.answer, self.view, *filled, *self._working]
        self.pressed = self.view.click(self.press, selected, changed, **SPOKEN)
        self.pressed.success(None, None, None, js="ed.showAnswer")
        self.cancel.click(self.keep, None, asked, **SPOKEN)
        again(self.confirm.click(self.remove, selected, asked, **SPOKEN))
        again(self.save.click(self.save_notes, [*selected, self.name, self.text], self.answer, **SPOKEN))
        inputs = [*selected, self.chosen, self.prompt, self.seed, self.cfg]
        self.draw.click(self.try_prompt, inputs, self._working, **SPOKEN)
        self.stop.click(lambda: self.work.stop(), None, None, **QUIET)
        for event in shown_on:
            event(self.show_work, None, self._working, **QUIET)
        self._timer.tick(self.show_work, None, self._working, **TICK)

    def describe(self, page: PageState, run: RunRecord | None) -> Updates:
        """The page of a run; nothing for None."""
        if run is None:
            off = gr.update(interactive=False)
            buttons = dict.fromkeys((self.report, self.folder, self.copy, self.delete, self.save), off)
            return {
                **buttons,
                self.view: "",
                self.question: gr.update(visible=False),
                self.card: gr.update(visible=False),
            }
        is_other, page.described_run = page.described_run != str(run.folder), str(run.folder)
        names = [path.name for path in reversed(checkpoints_of(run.folder))]
        updates: Updates = {
            self.view: self._page_of(run),
            self.delete: gr.update(interactive=run.state not in ("running", "paused")),
            self.chosen: gr.update(choices=names),
        }
        updates |= dict.fromkeys((self.report, self.folder, self.copy, self.save), gr.update(interactive=True))
        if is_other:  # what was typed for this run stays
            page.asked = None
            updates |= {self.name: run.notes.name, self.text: run.notes.text, self.answer: ""}
            updates |= {self.question: gr.update(visible=False), self.card: gr.update(visible=False)}
        return updates

    def _page_of(self, run: RunRecord) -> str:
        try:
            return run_page_html(RunFacts.of(run), self._context.run_images, self._context.trained_in(run.folder))
        except OSError as error:
            return note_html(f"The run cannot be read: {plain_reason(error)}.")

    def write_report(self, logdir: str, name: str | None) -> str:
        """Write report.html into the run's folder, and say where it is."""
        with refusing():
            path = write_report(self._find(logdir, name))
        return f'<div class="ed-model"><dl><dt>Report</dt><dd>{escape(str(path))}</dd></dl></div>'

    def open_folder(self, logdir: str, name: str | None) -> None:
        """Show the run's folder in the file manager of this computer."""
        run = self._find(logdir, name)
        with refusing():
            self._context.open_folder(run.folder)

    def save_notes(self, logdir: str, name: str | None, shown: str, text: str) -> str:
        """Keep the shown name and the notes in the run's folder, whose name stays."""
        with refusing("The notes cannot be written"):
            RunNotes(shown or "", text or "").write(self._find(logdir, name).folder)
        return note_html("Saved name and notes.")

    def press(self, request: gr.Request, event: gr.EventData, logdir: str, name: str | None) -> Updates:
        """Do what was pressed beside a checkpoint."""
        run, act = self._find(logdir, name), getattr(event, "act", None)
        if act == "use":
            return self._use(run, getattr(event, "step", None))
        checkpoint = self._checkpoint(run, getattr(event, "checkpoint", None))
        if act == "delete":
            return self._ask(self._context.pages.of(request), run, checkpoint)
        if act == "try":
            return {self.card: gr.update(visible=True), self.chosen: gr.update(value=checkpoint.name)}
        if act == "continue":
            return continuing(checkpoint, self._controls, self._tabs)
        if act in PINS:
            return self._pin(run, checkpoint, is_wanted=PINS[act])
        if act == "export":
            with refusing("It cannot be done"):
                self.work.export(checkpoint)
        return self.show_work()

    def _pin(self, run: RunRecord, checkpoint: Path, *, is_wanted: bool) -> Updates:
        """Protect a checkpoint, or no longer."""
        with refusing("The checkpoint could not be marked"):
            pin(checkpoint, is_wanted=is_wanted)
        return {self.view: self._page_of(run)}

    def _use(self, run: RunRecord, step: object) -> Updates:
        """Protect the checkpoint nearest to the step of a sample; what can be done with it stands in the list."""
        shown = replay_run(run.folder)
        if not isinstance(step, int) or step not in {one.step for one in shown.samples}:
            raise refusal(NO_SAMPLE)
        checkpoint = nearest_checkpoint(run.folder, step)
        if checkpoint is None:
            raise refusal(NO_CHECKPOINT)
        html = protected_html(checkpoint, step, shown)
        return {self.answer: html, self.view: self._page_of(run)}

    def try_prompt(
        self, logdir: str, name: str | None, chosen: str | None, text: str, seed: float | None, cfg: float | None
    ) -> Updates:
        """Draw an image of a prompt with a checkpoint."""
        checkpoint = self._checkpoint(self._find(logdir, name), chosen)
        if not (text or "").strip():
            raise refusal(NO_PROMPT)
        number = min(2**31 - 1, max(0, int(seed or 0)))
        strength = min(30.0, max(1.0, float(cfg or DEFAULT_CFG)))
        with refusing("It cannot be done"):
            self.work.draw(checkpoint, text.strip()[:2000], number, strength)
        return self.show_work()

    def show_work(self) -> Updates:
        """How far the export or the image is."""
        shown = self.work.shown
        image = self._context.run_images.offer(shown.path) if shown.path and shown.path.suffix == ".png" else ""
        is_running = shown.state == "running"
        return {
            self.result: work_html(shown, image),
            self.stop: gr.update(visible=is_running),
            self._timer: gr.Timer(active=is_running),
        }

    def ask_run(self, request: gr.Request, logdir: str, name: str | None) -> Updates:
        """Ask whether to delete the run, with the space that this frees."""
        return self._ask(self._context.pages.of(request), self._find(logdir, name), None)

    def keep(self, request: gr.Request) -> Updates:
        """Delete nothing."""
        self._context.pages.of(request).asked = None
        return {self.question: gr.update(visible=False)}

    def remove(self, request: gr.Request, logdir: str, name: str | None) -> Updates:
        """Delete what was asked about; the last checkpoint of a run only after a second question."""
        page, run = self._context.pages.of(request), self._find(logdir, name)
        asked = page.asked
        if asked is None or asked.run != str(run.folder):
            raise refusal(NOTHING_ASKED)
        checkpoint = self._checkpoint(run, asked.checkpoint) if asked.checkpoint else None
        if not asked.is_second and _takes_last(run, checkpoint):
            return self._ask(page, run, checkpoint, is_second=True)
        page.asked = None
        with refusing("It cannot be deleted"):
            freed = remove_checkpoint(run, checkpoint) if checkpoint else remove_run(run)
        if checkpoint is None:
            self._context.service.forget(run.folder)
        what = checkpoint.name if checkpoint else run.folder.name
        gr.Info(f"Deleted {what}; {file_size(freed)} are free again.", duration=8)
        return {self.question: gr.update(visible=False)}

    def _ask(self, page: PageState, run: RunRecord, checkpoint: Path | None, *, is_second: bool = False) -> Updates:
        page.asked = DeletionAsked(str(run.folder), checkpoint.name if checkpoint else "", is_second)
        return {
            self.question: gr.update(visible=True),
            self.asked: note_html(question(run, checkpoint, is_second=is_second)),
            self.confirm: gr.update(value="Delete for good" if is_second else "Delete"),
        }

    def _checkpoint(self, run: RunRecord, name: object) -> Path:
        found = next((path for path in checkpoints_of(run.folder) if path.name == name), None)
        if found is None:
            raise refusal(NO_SUCH_CHECKPOINT)
        return found


def question(run: RunRecord, checkpoint: Path | None, *, is_second: bool) -> str:
    """What is asked before something is deleted."""
    if is_second and checkpoint:
        return (
            f"{checkpoint.name} is the last checkpoint of this run: it can then be neither resumed nor used. Delete it?"
        )
    if is_second:
        kept = counted(len(checkpoints_of(run.folder)), "checkpoint")
        return f"The run has {kept}: what it learned is lost, except single files elsewhere. Delete all of it?"
    if checkpoint:
        return f"Delete {checkpoint.name}? This frees {file_size(saved_size(checkpoint))}."
    return f"Delete the folder {run.folder.name} with all that is in it? This frees {file_size(run.size_bytes)}."


def _takes_last(run: RunRecord, checkpoint: Path | None) -> bool:
    return is_last_checkpoint(run, checkpoint) if checkpoint else bool(checkpoints_of(run.folder))
