"""The part of the tab Resume that marks checkpoints of the chosen run, so that `keep_last` never removes them."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ed2.app.runs.records import RunRecord, checkpoints_of
from ed2.checkpoint.pins import is_kept, keep
from ed2.disk import plain_reason
from ed2.ui.live import refusal

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
        marked = tuple(checkpoint.name for checkpoint in found if is_kept(checkpoint))
        return gr.update(choices=names, value=list(marked), visible=bool(found)), marked

    def mark(self, run: RunRecord, seen: Sequence[str], wanted: Sequence[str]) -> None:
        """Mark the checkpoints whose box was set since they were shown, and unmark those whose box was cleared."""
        changed = set(seen) ^ set(wanted)
        try:
            for checkpoint in checkpoints_of(run.folder):
                if checkpoint.name in changed:
                    keep(checkpoint, checkpoint.name in wanted)
        except OSError as error:
            raise refusal(f"It could not be marked: {plain_reason(error)}.") from None
