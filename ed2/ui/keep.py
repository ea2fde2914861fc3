"""The part of the tab Resume that marks checkpoints of the chosen run, so that `keep_last` never removes them."""

from typing import Any

import gradio as gr

from ed2.app.runs import RunRecord, checkpoints_of
from ed2.checkpoint.pins import is_kept, keep
from ed2.disk import plain_reason
from ed2.ui.live import refusal

WHAT_IT_IS = "These checkpoints stay whole, whatever keep_last says. Each holds a file named KEEP."


class KeepPanel:
    """One box for each checkpoint; what is marked is looked up on the disk, never believed."""

    def __init__(self) -> None:
        self.boxes = gr.CheckboxGroup([], label="Keep", info=WHAT_IT_IS, elem_id="keep-checkpoints", visible=False)

    def shown(self, run: RunRecord | None) -> Any:
        """The boxes of a run, the newest first; none where it has no checkpoints."""
        found = checkpoints_of(run.folder) if run else []
        names = [checkpoint.name for checkpoint in reversed(found)]
        marked = [checkpoint.name for checkpoint in found if is_kept(checkpoint)]
        return gr.update(choices=names, value=marked, visible=bool(found))

    def mark(self, run: RunRecord, wanted: list[str]) -> None:
        """Mark the checkpoints named, and no others, of a run."""
        try:
            for checkpoint in checkpoints_of(run.folder):
                if is_kept(checkpoint) != (checkpoint.name in wanted):
                    keep(checkpoint, checkpoint.name in wanted)
        except OSError as error:
            raise refusal(f"It could not be marked: {plain_reason(error)}.") from None
