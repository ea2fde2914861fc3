"""The Train tab: the current run, where its model is, Save now and Sample now, TensorBoard, sharing."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.page.checkpoint_work import CheckpointWork
from ed2.app.page.tensorboard import TensorBoard
from ed2.app.runs.records import single_file_of
from ed2.app.snapshot import RunSnapshot
from ed2.checkpoint.identity import checkpoints_of
from ed2.errors import Ed2Error
from ed2.models.files.lora_base import is_lora_checkpoint
from ed2.settings.fields import fields
from ed2.ui.context import Context
from ed2.ui.form import Form, to_control
from ed2.ui.html import escape, link_html, note_html
from ed2.ui.live import LiveData, LivePanel
from ed2.ui.lora_panel import LoraPanel, has_extractable
from ed2.ui.page_state import PageState
from ed2.ui.run_html import work_html
from ed2.ui.strip import request
from ed2.ui.use_step import UseStepPanel
from ed2.ui.wiring import SLOW, SPOKEN, Updates, refusal, refusing

VALIDATED: Mapping[str, object] = {"val_split_mode": "automatic", "stabilize_training_loss": True}
VALIDATES = (
    "The next run holds out part of the images for validation, and measures part of the others with the same fixed "
    "noise. See Validation in the Settings tab."
)
FILES = ("Single file for web UIs", "Checkpoint")
LORA_FILES = ("LoRA for web UIs", "Checkpoint, which diffusers loads too")
NO_SINGLE_FILE = "Web UIs load a single file, which this run did not write."
AFTER_THE_RUN = "You can export one when the run has ended."
CONTINUE = "Train begins a new run. Resume continues this one from its checkpoint."
ENDED_EARLY = ("stopped", "failed")
GONE = "This checkpoint is no longer there."

Resume = Callable[[str, str, float | None], Updates]
"""Resumes a run: the folder of runs, its name, and the new last epoch if all of its epochs are done."""


class TrainTab:
    """The owner's view of the run."""

    def __init__(self, context: Context, live: LiveData, work: CheckpointWork) -> None:
        """Show it; `work` exports checkpoints."""
        self._context, self._service, self._work = context, context.service, work
        self.tensorboard = TensorBoard()
        with gr.Row(elem_id="now-buttons", elem_classes="ed-actions"):
            self.save = gr.Button("Save now", interactive=False, elem_id="save-now-button", min_width=120)
            self.sample = gr.Button("Sample now", interactive=False, elem_id="sample-now-button", min_width=120)
            self.board = gr.Button("Open TensorBoard", elem_id="tensorboard-button", min_width=120)
            self.share = gr.Button("Share", elem_id="share-button", min_width=120)
            self.unshare = gr.Button("Stop sharing", visible=False, elem_id="stop-sharing-button", min_width=120)
            self.extract = gr.Button("Extract a LoRA", visible=False, elem_id="extract-from-run-button", min_width=140)
        self.board_answer = gr.HTML("", js_on_load=None, elem_id="tensorboard-answer")
        self.share_answer = gr.HTML("", js_on_load=None, elem_id="share-answer")
        self.model = ModelCard(context, work)
        self.panel = LivePanel(live, below_samples=self._make_use_step)

    def _make_use_step(self) -> None:
        self.use_step = UseStepPanel(self._context)

    @property
    def outputs(self) -> list[Any]:
        """What `updates` may change."""
        return [*self.model.outputs, self.extract, self.save, self.sample, *self._shared]

    @property
    def _shared(self) -> list[Any]:
        return [self.share_answer, self.unshare]

    def updates(self, shown: RunSnapshot, page: PageState) -> Updates:
        """Updates for what the page shows outdated: where the model is, and which buttons are enabled."""
        updates = self.model.updates(shown, page)
        if page.is_outdated("status", shown):
            updates[self.extract] = gr.update(visible=has_extractable(shown))
        if page.shows_other_state(shown):
            can_ask = gr.update(interactive=shown.allows("save now"))
            updates |= {self.save: can_ask, self.sample: can_ask, **self._sharing()}
        return updates

    def wire(self, form: Form, tabs: gr.Tabs, problems: gr.HTML, lora: LoraPanel, resume: Resume) -> None:
        """Connect the buttons; an extraction is followed where all of them are. `resume` resumes a run."""
        self._tabs, self._lora = tabs, lora
        self.model.wire(resume, [tabs, problems])
        extracted = self.extract.click(self.extract_lora, None, [tabs, *lora.outputs], **SPOKEN)
        extracted.success(None, None, None, js="() => ed.openFold('lora-card')")
        self.save.click(lambda: request(self._service.save_now), None, None, **SPOKEN)
        self.sample.click(lambda: request(self._service.sample_now), None, None, **SPOKEN)
        self.share.click(self.start_sharing, None, self._shared, **SLOW)
        self.unshare.click(self.stop_sharing, None, self._shared, **SLOW)
        self._controls = form.controls
        chosen = [form.controls[name] for name in VALIDATED]
        self.validated = self.panel.adviser.click(self.validate_next, None, chosen, **SPOKEN)
        self.continued = self.use_step.wire(self.panel.gallery, form, tabs, self._work)
        logdir = form.controls["logdir"]
        started = self.board.click(self.open_tensorboard, logdir, self.board_answer, js="ed.openTensorBoard", **SLOW)
        started.success(None, self.board_answer, None, js="ed.showTensorBoard")
        started.failure(None, None, None, js="ed.closeTensorBoard")

    def validate_next(self) -> Updates:
        """Set the form so that the next run is validated."""
        gr.Info(VALIDATES, duration=8)
        return {self._controls[name]: to_control(fields()[name], value) for name, value in VALIDATED.items()}

    def extract_lora(self, request: gr.Request) -> Updates:
        """Extract a LoRA from the run that has ended, and show how far it is."""
        return {**self._lora.extract_newest(request), self._tabs: gr.Tabs(selected="resume")}

    def start_sharing(self) -> Updates:
        """Start the monitor page and a link to it, and show both."""
        with refusing():
            self._context.sharing.start()
        return self._sharing()

    def stop_sharing(self) -> Updates:
        """End the link and the monitor page."""
        self._context.sharing.close()
        return self._sharing()

    def _sharing(self) -> Updates:
        html = self._context.sharing.as_html()
        return {self.share_answer: html, self.unshare: gr.update(visible=bool(html))}

    def open_tensorboard(self, logdir: str) -> str:
        """Start TensorBoard on the runs folder, and show where it is."""
        with refusing():
            address = self.tensorboard.start(self._context.logdir({"logdir": logdir}))
        return f'<p>TensorBoard: <a href="{address}" target="_blank" rel="noopener">{address}</a></p>'


class ModelCard:
    """Where the model is; create it inside a `gr.Blocks`. The checkpoint is looked up again, never trusted."""

    def __init__(self, context: Context, work: CheckpointWork) -> None:
        self._context, self._work = context, work
        with gr.Column(visible=False, elem_classes="ed-card", elem_id="model-card") as self.card:
            self.places = gr.HTML("", js_on_load="ed.watchLinks(element)", elem_id="your-model")
            with gr.Row(elem_classes="ed-actions"):
                self.resume = gr.Button("Resume this run", elem_id="resume-model-button", min_width=160)
                self.export = gr.Button("Export single file", elem_id="export-model-button", min_width=160)
                self.folder = gr.Button("Open folder", elem_id="model-folder-button", min_width=120)
            self.result = gr.HTML("", js_on_load=None, elem_id="model-result")

    @property
    def outputs(self) -> list[Any]:
        """What `updates` may change."""
        return [self.card, self.places, self.resume, self.export, self.result]

    def seen(self) -> object:
        """Changes with the export, on whichever page it was pressed."""
        return self._work.shown

    def updates(self, shown: RunSnapshot, page: PageState) -> Updates:
        """Updates if the page shows an older run or export."""
        if page.is_outdated("status", shown) or page.seen.get("work") != self.seen():
            return self._shown(shown)
        return {}

    def wire(self, resume: Resume, started: list[Any]) -> None:
        """Connect the buttons; `resume` changes `started`."""

        def resume_run() -> Updates:
            shown = self._context.service.snapshot()
            if shown.run_dir is None:
                raise refusal(GONE)
            return resume(str(shown.run_dir.parent), shown.run_dir.name, None)

        self.resume.click(resume_run, None, started, **SPOKEN)
        self.export.click(self.export_file, None, self.outputs, **SPOKEN)
        self.folder.click(self.open_folder, None, None, **SPOKEN)

    def export_file(self) -> Updates:
        """Write the single file of the run's newest checkpoint."""
        shown = self._context.service.snapshot()
        if shown.run_dir is None or shown.checkpoint not in checkpoints_of(shown.run_dir):
            raise refusal(GONE)
        with refusing():
            self._work.export(shown.checkpoint)
        return self._shown(shown)

    def open_folder(self) -> None:
        """Show the folder of the single file, else that of the checkpoint, in the file manager of this computer."""
        shown = self._context.service.snapshot()
        path = self._single_file(shown) or shown.checkpoint
        if path is None or not path.parent.is_dir():
            raise refusal(GONE)
        with refusing():
            self._context.open_folder(path.parent)

    def _shown(self, shown: RunSnapshot) -> Updates:
        single, work = self._single_file(shown), self._work.shown
        html = model_html(shown, single)
        result = ""
        if work.exported and work.exported == shown.checkpoint:
            result = work_html(replace(work, path=None), "")  # the file stands above
        return {
            self.card: gr.update(visible=bool(html)),
            self.places: html,
            self.resume: gr.update(visible=shown.state in ENDED_EARLY),
            self.export: gr.update(visible=not single and not shown.is_active, interactive=work.state != "running"),
            self.result: result,
        }

    def _single_file(self, shown: RunSnapshot) -> Path | None:
        """The single file of the newest checkpoint: the run's own, or one that was exported since."""
        found = shown.single_file
        if not found and shown.checkpoint and not shown.is_active:
            with suppress(Ed2Error):
                found = single_file_of(shown.checkpoint)
        return found if found and found.exists() else None


def model_html(shown: RunSnapshot, single: Path | None) -> str:
    """Where the model of a run is, as far as it was saved; empty if nothing was, and for a run of another program."""
    checkpoint = shown.checkpoint
    if shown.elsewhere or checkpoint is None:
        return ""
    names = LORA_FILES if is_lora_checkpoint(checkpoint) else FILES
    rows = ""
    for name, path in zip(names, (single, checkpoint), strict=True):
        if path and path.exists():
            rows += f"<dt>{name}</dt><dd>{escape(str(path))}</dd>"
    if not rows:
        return ""
    title, note = "Your model", NO_SINGLE_FILE
    if shown.is_active:
        title, note = "Saved so far", f"{NO_SINGLE_FILE} {AFTER_THE_RUN}"
    html = f"<h3>{title}</h3><dl>{rows}</dl>{'' if single else note_html(note)}{_continued_html(shown)}"
    return f'<section class="ed-model" aria-label="{title}">{html}</section>'


def _continued_html(shown: RunSnapshot) -> str:
    """How a run that has ended can be continued, or where its other checkpoints are."""
    if shown.state in ENDED_EARLY:
        return note_html(CONTINUE)
    if shown.state == "done" and len(shown.saves) > 1:
        return f'<p class="ed-note">Other checkpoints of this run: {link_html("Resume tab", "Resume")}</p>'
    return ""
