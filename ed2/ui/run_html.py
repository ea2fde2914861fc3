"""A run as HTML: its row in the list, and its page with figures, curves, samples, checkpoints and settings."""

from collections.abc import Sequence

from ed2.app.page.checkpoint_work import WorkStatus
from ed2.app.runs.facts import CheckpointFacts, RunFacts
from ed2.app.runs.records import RunRecord
from ed2.text import counted, file_size
from ed2.ui.charts import ChartRun, charts_html
from ed2.ui.html import escape, figure_list_html, on_page
from ed2.ui.image_copies import ImageCopies
from ed2.ui.matrix import Matrix, Trained, columns_of
from ed2.ui.report import key_figures, settings_table

ACTS = {
    "export": "Export single file",
    "try": "Try a prompt",
    "continue": "Continue from it",
    "protect": "Protect",
    "unprotect": "Unprotect",
    "delete": "Delete",
}
"""What can be done with a checkpoint."""
HINTS = {"protect": "Never delete it, whatever keep_last says", "unprotect": "Let keep_last delete it again"}
WORK_LOOKS = {"running": ("busy", "Working"), "done": ("good", "Done"), "failed": ("wait", "No result")}
"""The style and label of each state of an export or an image."""
LOOKS = {"done": "good", "running": "busy", "failed": "bad"}
"""The style of a state; all others wait for somebody."""


def runs_html(runs: Sequence[RunRecord], thumbs: ImageCopies, asked: str, offered: str) -> str:
    """The list, with the run that was selected when it was asked for and the one that it offers."""
    rows = "".join(_row(run, thumbs) for run in runs)
    head = "".join(f"<span>{name}</span>" for name in ("Run", "State", "Steps", "Best validation", "Size"))
    return (
        f'<div class="ed-runs-head" aria-hidden="true"><span></span>{head}<span>Compare</span></div>'
        f'<ul class="ed-runs" data-asked="{escape(asked)}" data-offered="{escape(offered)}">{rows}</ul>'
        '<p class="ed-note ed-none-found" hidden>No run matches.</p>'
    )


def _row(run: RunRecord, thumbs: ImageCopies) -> str:
    folder, where, image = escape(run.folder.name), "", '<i class="ed-cover"></i>'
    if run.last_sample and (address := thumbs.offer(run.last_sample)):
        image = f'<img class="ed-cover" src="{address}" alt="" loading="lazy">'
    if run.trainer:
        where = f" in {run.trainer.name}"
    best = f"{run.best[1]:.4f}" if run.best else "–"
    at = f"<small>step {run.best[0]:,}</small>" if run.best else ""
    loss = "" if run.loss is None else f"<small>loss {run.loss:.4f}</small>"
    own = f"<small>{folder}</small>" if run.notes.name else ""
    pill = f'<b class="ed-pill" data-look="{LOOKS.get(run.state, "wait")}">{run.state}</b>'
    box = f'<input type="checkbox" data-pick="{folder}" aria-label="Compare {folder}">'
    noted = escape(run.notes.text.partition("\n")[0][:160])
    about = f'<small class="ed-noted">{noted}</small>' if noted else ""
    return (
        f'<li data-run="{folder}" data-state="{run.state}"><button type="button" aria-label="Select {folder}">{image}'
        f'<span class="ed-run-name"><strong>{_breakable(run.name)}</strong>{own}'
        f"<small>{run.begun_at:%Y-%m-%d %H:%M} · {_resumable(run)}</small>{about}</span>"
        f'<span class="ed-run-state">{pill}{where} </span>'
        f"<span>step {run.step:,} of {run.total:,}{loss}</span><span>{best}{at}</span>"
        f"<span>{file_size(run.size_bytes)}</span></button>"
        f'<label class="ed-pick">{box}</label></li>'
    )


def _breakable(name: str) -> str:
    """A name that is broken behind its underscores, and only then within a word."""
    return escape(name).replace("_", "_<wbr>")


def _resumable(run: RunRecord) -> str:
    """Whether a run is done or can be resumed, and from where if its last steps are in no checkpoint."""
    if run.resume_step is None:
        return "no checkpoint to resume from"
    if run.state == "done":
        return "all epochs are done"
    if run.state in ("running", "paused") or run.resume_step >= run.step:
        return "can be resumed"
    return f"resumes from step {run.resume_step:,}, its last checkpoint"


def run_page_html(run: RunFacts, copies: ImageCopies, trained: Trained) -> str:
    """The page of a run; `trained` finds its training images."""
    record, shown = run.record, run.shown
    copies.keep_only(str(record.folder))
    samples = '<p class="ed-note">No samples.</p>'
    if shown.samples:
        samples = Matrix(columns_of(shown.samples), copies, [record.folder], trained).as_html(is_owner=True)
    own = f'<p class="ed-note">{escape(record.folder.name)}</p>' if record.notes.name else ""
    notes = f'<p class="ed-run-notes">{escape(record.notes.text)}</p>' if record.notes.text else ""
    others = {name: value for name, value in run.settings.items() if name not in run.changed}
    return (
        f'<article class="ed-run-page" data-path="{escape(str(record.folder))}" aria-label="Run {escape(record.name)}">'
        f"<h3>{escape(record.name)}</h3>{own}{notes}{figure_list_html(key_figures(run))}"
        f"<h4>Curves</h4>{charts_html([ChartRun.of(shown)])}<h4>Samples</h4>{samples}"
        f"<h4>Checkpoints</h4>{_checkpoints(run.checkpoints)}"
        f"<h4>Settings</h4>{_folded(f'{len(run.changed)} changed', settings_table(run.changed), is_open=True)}"
        f"{_folded(f'{len(others)} at the default', settings_table(others))}"
        f"{_folded('Versions', figure_list_html(run.versions))}</article>"
    )


def _folded(title: str, content: str, *, is_open: bool = False) -> str:
    return f'<details class="ed-note"{" open" if is_open else ""}><summary>{title}</summary>{content}</details>'


def _checkpoints(found: Sequence[CheckpointFacts]) -> str:
    if not found:
        return '<p class="ed-note">No checkpoint.</p>'
    rows = "".join(map(_checkpoint, found))
    total = file_size(sum(one.size_bytes for one in found))
    return (
        f'<ul class="ed-checkpoints">{rows}</ul>'
        f'<p class="ed-note">{counted(len(found), "checkpoint")}, {total}. Single files lie elsewhere and stay.</p>'
    )


def _checkpoint(one: CheckpointFacts) -> str:
    name = escape(one.path.name)
    facts = [f"step {one.step:,}", file_size(one.size_bytes)]
    if one.validation is not None:
        facts.append(f"validation {one.validation:.4f}")
    facts += ["can be resumed"] if one.can_resume else ["weights only"]
    facts += ["protected"] if one.is_kept else []
    without = "protect" if one.is_kept else "unprotect"
    buttons = "".join(_act(act, words, name) for act, words in ACTS.items() if act != without)
    return (
        f'<li><p><strong>{name}</strong><small>{" · ".join(facts)}</small></p><div class="ed-does">{buttons}</div></li>'
    )


def _act(act: str, words: str, checkpoint: str) -> str:
    return (
        f'<button type="button" data-act="{act}" data-checkpoint="{checkpoint}" title="{HINTS.get(act, "")}" '
        f'aria-label="{words} {checkpoint}">{words}</button>'
    )


def work_html(shown: WorkStatus, image: str) -> str:
    """How far an export or an image is, or what came of it."""
    html = ""
    if shown.state in WORK_LOOKS:
        look, name = WORK_LOOKS[shown.state]
        text = escape(on_page(f"{shown.doing}. {shown.text}".strip())).replace("\n", "<br>")
        html = f'<p><span class="ed-pill" data-look="{look}">{name}</span> {text}</p>'
    if image:
        html += f'<img class="ed-tried" src="{image}" alt="{escape(shown.doing)}">'
    if shown.path:
        html += f'<div class="ed-model"><dl><dt>File</dt><dd>{escape(str(shown.path))}</dd></dl></div>'
    return f'<div data-state="{shown.state}" role="status">{html}</div>'
