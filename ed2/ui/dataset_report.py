"""What a check of the images found, as the tab Dataset tells it."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from ed2.app.checks.check import Checked
from ed2.data.example import FindingKind
from ed2.data.report import HEADINGS
from ed2.errors import Problem
from ed2.ui.html import bars_html, problems_html
from ed2.ui.labels import on_page

MAX_TOLD = 20
IS_STALE = "This is what was found before you changed the folder or a setting of the images: press Check again."
STALE = """(...now) => { const told = document.querySelector('#dataset-report [data-asked]'); if (!told) return [];
  const plain = value => String(value ?? '').trim();
  const isAsked = (either, n) => either.some(value => plain(value) === plain(now[n]));
  told.hidden = JSON.parse(told.dataset.asked).every(isAsked); return []; }"""
"""Whether the form still asks for what was checked: found out in the browser, so that typing costs no question."""


def stale_html(asked: Sequence[Sequence[Any]]) -> str:
    """Says that a report is out of date, and is hidden until `STALE` finds it so.

    Args:
        asked: what each control of the images held at the check, and what it holds for that after a reload.
    """
    return f'<p class="ed-stale" role="status" data-asked="{escape(json.dumps(asked))}" hidden>{IS_STALE}</p>'


def report_html(checked: Checked) -> str:
    """How many images can be used, what is good to know, their sizes of training, and what is wrong."""
    found = checked.as_object()
    used, unusable = len(found["images"]), len(checked.dataset.problems)
    epochs = checked.settings.run.max_epochs
    counts = (
        f"<p><strong>{used:,} images can be used, {unusable:,} files cannot.</strong><br>"
        f"{found['steps_per_epoch']:,} steps an epoch, {found['total_steps']:,} steps in {epochs:,} epochs.</p>"
    )
    of_model = {problem.what for problem in checked.sizes.problems}  # no fault of the images: told as a note
    problems = [Problem(p["path"], p["what"], p["fix"]) for p in found["problems"] if p["what"] not in of_model]
    more = len(problems) - MAX_TOLD
    if more > 0:
        problems = [*problems[:MAX_TOLD], Problem(None, f"and {more:,} more.")]
    bars = [(f"{b['size'][0]} x {b['size'][1]}", b["images"]) for b in found["buckets"]]
    chart = f"<h3>Images by size of training</h3>{bars_html(bars, 'Images by size of training')}"
    return f'<div class="ed-card">{counts}{_notes_html(checked)}{chart}</div>' + (
        problems_html(problems, box_id="dataset-problems") if problems else "")  # fmt: skip


def _notes_html(checked: Checked) -> str:
    """What is good to know and is not told among the problems, gathered by kind with a few names."""
    kinds: dict[FindingKind, list[str]] = {}
    for note in checked.dataset.notes:
        if note.path is None or note.kind == "sidecar":
            continue
        kinds.setdefault(note.kind, []).append(
            str(note.path) if note.kind in HEADINGS else f"{note.path}: {note.what} {note.fix}".strip()
        )
    items = []
    for kind, texts in kinds.items():
        names = ", ".join(texts[:3]) + (f" and {len(texts) - 3:,} more" if len(texts) > 3 else "")
        heading = HEADINGS.get(kind, "Also good to know")
        items.append(f"<li><strong>{escape(heading)} ({len(texts):,})</strong>: {escape(names)}</li>")
    items += [f"<li>{escape(on_page(str(problem)))}</li>" for problem in checked.sizes.problems]
    return f'<ul class="ed-note">{"".join(items)}</ul>' if items else ""
