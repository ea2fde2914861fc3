"""The part of the Resume tab that extracts a LoRA from a checkpoint of the selected run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.model_commands import DEFAULT_RANK
from ed2.app.page.checkpoint_work import ExtractionStatus, LoraExtractor, LoraSource
from ed2.app.runs.records import RunRecord
from ed2.app.snapshot import RunSnapshot
from ed2.checkpoint.identity import average_of, checkpoints_of
from ed2.errors import Ed2Error, RefusedError
from ed2.models.files.lora_base import is_lora_checkpoint
from ed2.ui.context import Context
from ed2.ui.html import escape, list_html, task_html
from ed2.ui.page_state import PageState
from ed2.ui.wiring import QUIET, SPOKEN, TICK, Updates, refusal

TITLE = "Extract a LoRA"
EXPLANATION = (
    "Writes what the training changed as a LoRA: a small file for web UIs, to use with the base model of the selected "
    "run. A higher rank keeps more and makes a larger file. Starting a run ends the extraction."
)
WAIT = "A run is in progress. You can extract a LoRA when it has ended."
TRAINED_ELSEWHERE = "This run is being trained in {}. You can extract a LoRA when it has ended."
NO_CHECKPOINT = "This run has no checkpoint to extract a LoRA from."
NOT_SELECTED = "Select a run with a checkpoint first."
LOOKS = {"running": ("busy", "Extracting"), "done": ("good", "Done"), "failed": ("wait", "No result")}
"""The style and label of each state."""
TICK_SECONDS = 1.0

FindRun = Callable[[str, str | None], RunRecord]


class LoraPanel:
    """A checkpoint, a rank and a button, and how far the extraction is."""

    def __init__(self, context: Context) -> None:
        self._context = context
        service = context.service
        self.extractor = LoraExtractor(self._is_training, service.read_libraries)
        with gr.Accordion(TITLE, open=False, elem_id="lora-card"):
            gr.Markdown(EXPLANATION)
            with gr.Row():
                self.checkpoint = gr.Dropdown(
                    [], label="Checkpoint", elem_id="lora-checkpoint", interactive=True, scale=3, min_width=240
                )
                self.rank = gr.Number(
                    DEFAULT_RANK,
                    label="Rank",
                    precision=0,
                    step=1,
                    interactive=True,
                    elem_id="lora-rank",
                    min_width=120,
                )
            with gr.Row(elem_classes="ed-actions"):
                self.start = gr.Button(TITLE, elem_id="extract-lora-button", min_width=140)
                self.stop = gr.Button("Stop extraction", elem_id="stop-extraction-button", min_width=140, visible=False)
            self.result = gr.HTML(result_html(ExtractionStatus()), js_on_load=None)
        self._timer = gr.Timer(TICK_SECONDS, active=False)

    @property
    def outputs(self) -> list[Any]:
        """What `describe` and `show` may change."""
        return [self.checkpoint, self.start, self.stop, self.result, self._timer]

    def wire(self, tab: gr.Tab, phase: gr.HTML, find: FindRun, selected: Sequence[Any]) -> None:
        """Connect the buttons; a page that is opened later sees the extraction too.

        Args:
            tab: this tab; opening it shows the extraction.
            phase: changes when a run starts or ends.
            find: gives the selected run, from the values of `selected`; raises gr.Error if none is selected.
            selected: the controls that say which run is selected.
        """
        self._find = find
        inputs = [*selected, self.checkpoint, self.rank]
        self.start.click(self.extract, inputs, self.outputs, **SPOKEN)
        self.stop.click(lambda: self.extractor.stop(), None, None, **QUIET)
        for event in (tab.select, phase.change):
            event(self.show, None, self.outputs, **QUIET)
        self._timer.tick(self.show, None, self.outputs, **TICK)

    def describe(self, page: PageState, run: RunRecord | None) -> Updates:
        """The checkpoints of a run, and why no LoRA can be extracted from it if that is so."""
        names = tuple(path.name for path in _checkpoints(run))
        page.lora_problem = _problem_of(run)
        updates = self._shown(page)
        if names != page.lora_checkpoints:  # else what is chosen stays
            page.lora_checkpoints = names
            updates[self.checkpoint] = gr.update(choices=names, value=next(iter(names), None))
        return updates

    def extract(
        self, request: gr.Request, logdir: str, name: str | None, checkpoint: str | None, rank: float | None
    ) -> Updates:
        """Extract a LoRA from a checkpoint of the selected run."""
        run = self._find(logdir, name)
        found = next((path for path in _checkpoints(run) if path.name == checkpoint), None)
        if problem := self._why_not_now() or _problem_of(run):
            raise refusal(problem)
        if found is None:
            raise refusal(NOT_SELECTED)
        return self._start(request, found, int(rank or 0))

    def extract_newest(self, request: gr.Request) -> Updates:
        """Extract a LoRA of the usual rank from the last checkpoint of the run that has ended here."""
        shown = self._context.service.snapshot()
        if not has_extractable(shown) or shown.checkpoint is None:
            raise refusal(self._why_not_now() or NO_CHECKPOINT)
        return self._start(request, shown.checkpoint, DEFAULT_RANK)

    def _start(self, request: gr.Request, checkpoint: Path, rank: int) -> Updates:
        try:
            source = LoraSource.of(checkpoint)
            self._context.require_allowed({"resume_ckpt": str(source.base), "save_ckpt_dir": str(source.folder)})
            self.extractor.start(source, rank)
        except RefusedError as error:
            raise refusal(str(error)) from None
        except Ed2Error as error:
            return {self.result: result_html(ExtractionStatus("failed", str(error)))}
        return self.show(request)

    def show(self, request: gr.Request) -> Updates:
        """How far the extraction is, and which buttons make sense."""
        return self._shown(self._context.pages.of(request))

    def _shown(self, page: PageState) -> Updates:
        shown, problem = self.extractor.shown, self._why_not_now() or page.lora_problem
        is_running = shown.state == "running"
        return {
            self.result: result_html(shown, problem),
            self.start: gr.update(interactive=not is_running and not problem),
            self.stop: gr.update(visible=is_running),
            self._timer: gr.Timer(active=is_running),
        }

    def _why_not_now(self) -> str:
        return WAIT if self._is_training() else ""

    def _is_training(self) -> bool:
        return self._context.service.snapshot().is_active


def has_extractable(shown: RunSnapshot) -> bool:
    """Whether a run of this program has ended with a model that a LoRA can be extracted from."""
    if shown.is_active or shown.elsewhere or shown.checkpoint is None:
        return False
    return shown.checkpoint.is_dir() and not is_lora_checkpoint(shown.checkpoint)


def _checkpoints(run: RunRecord | None) -> list[Path]:
    """The checkpoints of a run, newest first, each followed by its EMA if there is one."""
    found = []
    for checkpoint in reversed(checkpoints_of(run.folder) if run else []):
        found.append(checkpoint)
        if average_of(checkpoint).is_dir():
            found.append(average_of(checkpoint))
    return found


def _problem_of(run: RunRecord | None) -> str:
    """Why no LoRA can be extracted from a run; empty if one can."""
    if run is None:
        return NOT_SELECTED
    if run.trainer:
        return TRAINED_ELSEWHERE.format(run.trainer.name)
    if run.checkpoint is None:
        return NO_CHECKPOINT
    return ""


def result_html(shown: ExtractionStatus, problem: str = "") -> str:
    """How far an extraction is or what came of it; `problem` says why none can be started now."""
    html = ""
    if shown.path and shown.base:
        rows = f"<dt>LoRA</dt><dd>{escape(str(shown.path))}</dd>"
        rows += f"<dt>Base model</dt><dd>{escape(str(shown.base))}</dd>"
        html = f'<div class="ed-model"><dl>{rows}</dl></div>' + list_html(map(escape, shown.shares))
    return task_html("lora-result", shown, LOOKS, problem, html)
