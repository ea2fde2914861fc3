"""The queue as HTML: the list of its owner, the same to read only, and the line in the strip."""

from collections.abc import Mapping
from pathlib import Path

from ed2.app.queue.store import QueuedRun, RunQueue
from ed2.text import counted
from ed2.ui.hiding import Hide
from ed2.ui.html import empty_html, escape, link_html, note_html, on_page

EMPTY = "The queue is empty. “Add to queue” adds a run with the settings in the form."
LOOKS = {
    "waiting": ("", "Waiting"),
    "running": ("busy", "Running"),
    "interrupted": ("wait", "Interrupted"),
    "stopped": ("wait", "Stopped"),
    "done": ("good", "Done"),
    "failed": ("bad", "Failed"),
}
"""The style and label of each state."""


def is_being_run(queue: RunQueue) -> bool:
    """Whether a program runs the queue now; asks only if one of its runs is marked as running."""
    return any(run.state == "running" for run in queue.runs()) and queue.is_being_run()


def queue_html(
    runs: tuple[QueuedRun, ...], *, is_run: bool, edited: int = 0, hide: Hide = str, is_owner: bool = True
) -> str:
    """The queue as a list; with buttons for its owner.

    Args:
        runs: in order.
        is_run: whether a program runs the queue now.
        edited: the number of the run that is edited; 0 for none.
        hide: removes paths.
        is_owner: whether the page may change it.
    """
    if not runs:
        return note_html(EMPTY) if is_owner else empty_html("The queue is empty.")
    items = []
    for run in runs:
        state = "interrupted" if run.state == "running" and not is_run else run.state
        look, name = LOOKS[state]
        about = " · ".join(filter(None, [f"run {run.number}", _folder(run), hide(on_page(run.text))]))
        ends = {"up": run is runs[0], "down": run is runs[-1]}
        does = f'<div class="ed-does">{_buttons(run, state, edited, ends)}</div>' if is_owner else ""
        is_edited = str(bool(edited) and run.number == edited).lower()
        items.append(
            f'<li data-run-number="{run.number}" data-state="{state}" data-edited="{is_edited}">'
            f'<span class="ed-pill" data-look="{look}">{name}</span>'
            f"<p><strong>{escape(run.project)}</strong><br><small>{escape(about)}</small></p>{does}</li>"
        )
    return f'<ol class="ed-queue" aria-label="Queue">{"".join(items)}</ol>'


def queue_line_html(runs: tuple[QueuedRun, ...], *, is_run: bool, is_wanted: bool) -> str:
    """A line in the strip on what waits, with a link to the list; an empty line for an empty queue."""
    waiting = sum(run.state in ("waiting", "stopped") for run in runs)
    killed = sum(run.state == "running" for run in runs) if not is_run else 0
    parts = [f"{waiting} waiting"] if waiting else []
    parts += [f"{killed} interrupted"] if killed else []
    if failed := sum(run.state == "failed" for run in runs):
        parts.append(f"{failed} failed")
    text = ""
    if parts:
        then = " Starts when the run in progress has ended." if is_wanted and not is_run and waiting else ""
        link = link_html("Queue", "Resume", "", f"Queue: {counted(len(runs), 'run')}")
        text = f"{link} <span>{escape(', '.join(parts))}.{then}</span>"
    return f'<p id="queue-line" class="ed-missing">{text}</p>'


def _folder(run: QueuedRun) -> str:
    return Path(run.folder).name if run.folder else f"added {run.added_at}"


def _buttons(run: QueuedRun, state: str, edited: int, ends: Mapping[str, bool]) -> str:
    """What can be done with a run; `ends` says where it cannot be moved to."""
    actions = [("up", "↑"), ("down", "↓")]
    if run.number == edited:
        actions.append(("cancel", "Cancel editing"))
    elif state == "waiting" and not run.folder:
        actions.append(("edit", "Edit"))
    if state == "failed":
        actions.append(("retry", "Try again"))
    if state != "running":
        actions.append(("remove", "Remove"))
    words = {"up": "Move up", "down": "Move down"}
    html = ""
    for action, text in actions:
        off = " disabled" if ends.get(action) else ""
        label = f"{words.get(action, text)}: run {run.number}"
        html += (
            f'<button type="button" data-queued="{run.number}" data-action="{action}" '
            f'aria-label="{label}"{off}>{text}</button>'
        )
    return html
