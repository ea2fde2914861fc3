"""Small pieces of HTML: the state, the figures, the memory, the problems. Everything that is told is escaped."""

import os
import re
from collections.abc import Iterable, Sequence
from html import escape

from ed2.app.reporters.texts import described
from ed2.app.snapshot import RunSnapshot
from ed2.errors import Problem
from ed2.events import MemoryMeasured
from ed2.settings.fields import fields
from ed2.settings.files import PROGRAM_DIR
from ed2.text import duration
from ed2.ui.hiding import Hide
from ed2.vram.sampler import MemoryUse, Share

LOOKS = {
    "preparing": "busy", "training": "busy", "sampling": "busy", "paused": "wait", "stopping": "wait",
    "done": "good", "stopped": "wait", "failed": "bad",
}  # fmt: skip
STATE_WORDS = {
    "connecting": "Connecting", "idle": "Ready", "preparing": "Preparing", "training": "Training",
    "sampling": "Drawing samples", "paused": "Paused", "stopping": "Stopping", "done": "Done", "stopped": "Stopped",
    "failed": "Failed",
}  # fmt: skip
LABELS = {
    "resume_ckpt": "Base model or checkpoint", "project_name": "Project name", "data_root": "Folder of images",
    "max_epochs": "Epochs", "lr": "Learning rate", "text_encoder_lr": "Learning rate of the text encoder",
    "lr_scheduler": "Learning rate schedule", "useadam8bit": "8-bit Adam", "amp": "Mixed precision (amp)",
    "amp_dtype": "Format of mixed precision", "grad_accum": "Gradient accumulation", "flip_p": "Mirror chance",
    "cond_dropout": "Caption dropout", "disable_unet_training": "Leave the UNet untrained",
    "disable_textenc_training": "Leave the text encoder untrained", "attn_type": "Attention",
    "ckpt_every_n_minutes": "Checkpoint every so many minutes", "save_every_n_epochs": "Save every so many epochs",
    "save_ckpts_from_n_epochs": "No saving by epochs before epoch", "save_ckpt_dir": "Folder of single files",
    "no_save_ckpt": "No single files", "ckpt_format": "Format of single files", "logdir": "Folder of runs",
    "log_step": "Log every so many steps", "sample_steps": "Samples every so many steps",
    "sample_prompts": "File of prompts", "no_prepend_last": "No last- before the final name",
    "save_full_precision": "Single files in full precision", "weights_only": "Take only the weights",
    "clip_grad_norm": "Longest gradient",
}  # fmt: skip
NO_SINGLE_FILE = (
    "No single file for a webui was written (no_save_ckpt). Make one out of the checkpoint: "
    "<code>python -m ed2 convert CHECKPOINT NAME.safetensors</code>."
)
_OPTION = re.compile(r"(?<![^\s(“\"'])--([a-z][a-z0-9_]*)\b(?![-=])")
_ELSEWHERE = {
    "check": "Check in the tab Dataset", "suggest": "Suggest in the tab Settings",
    "test_resume": "Test resume in the tab Resume", "vram_gb": "“Memory of the card”",
    "config": "the settings file",
}  # fmt: skip


def label_of(name: str) -> str:
    """A setting's name for people."""
    return LABELS.get(name, name.replace("_", " ").capitalize())


def on_page(text: str) -> str:
    """The text with options of the command line under the names that the page has for them."""
    return _OPTION.sub(lambda found: _ELSEWHERE.get(found[1]) or _in_form(found), text)


def _in_form(found: re.Match[str]) -> str:
    return f"“{label_of(found[1])}”" if found[1] in fields() else found[0]


def status_html(shown: RunSnapshot | None, *, hide: Hide = str) -> str:
    """The state in the strip; None while the program has not answered."""
    if shown is None:
        return _status(RunSnapshot(), "connecting", "")
    parts = [shown.project] if shown.project else []
    if shown.epoch:
        parts.append(f"epoch {shown.epoch:,} of {shown.max_epochs:,}")
    if shown.total:
        parts.append(f"step {shown.step:,} of {shown.total:,}")
    if shown.seconds_left is not None and shown.state != "stopping":
        parts.append(f"about {duration(max(1.0, shown.seconds_left))} left")
    parts += filter(None, [shown.asked, hide(on_page(_doing(shown)))])
    return _status(shown, shown.state, " · ".join(parts))


def _doing(shown: RunSnapshot) -> str:
    """What is being done now, or how it ended."""
    if shown.is_saving:
        return "saving a checkpoint"
    if shown.progress and shown.state != "stopping":
        return shown.progress
    if shown.detail:
        return shown.detail if shown.state != "failed" else ""
    return "Fill the tabs, then press Train." if shown.state == "idle" else ""


def _status(shown: RunSnapshot, state: str, text: str) -> str:
    step, total = shown.step, shown.total
    percent = 100 * step / total if total else 0
    is_saving = str(shown.is_saving).lower()
    data = f'data-state="{state}" data-step="{step}" data-total="{total}" data-saving="{is_saving}"'
    look, word = ("busy", "Elsewhere") if shown.elsewhere else (LOOKS.get(state, ""), STATE_WORDS[state])
    return (
        f'<section id="status" class="ed-status" aria-label="State of the run" {data}>'
        f'<span class="ed-pill" data-look="{look}">{word}</span>'
        f'<span class="ed-status-text">{escape(text)}</span>'
        f'<div class="ed-bar" role="progressbar" aria-label="Steps done" aria-valuemin="0" aria-valuemax="{total}" '
        f'aria-valuenow="{step}"><i style="width:{percent:.1f}%"></i></div></section>'
    )


def problems_html(problems: Sequence[Problem], *, box_id: str = "problems", hide: Hide = str) -> str:
    """What is wrong and what to do, in a box that screen readers announce; an empty box where nothing is wrong."""
    if not problems:
        return f'<div id="{box_id}" class="ed-problems" role="alert"></div>'
    items = "".join(f"<li>{_problem(problem, hide)}</li>" for problem in problems)
    heading = "This needs your attention:" if len(problems) == 1 else f"These {len(problems)} need your attention:"
    return f'<div id="{box_id}" class="ed-problems" role="alert"><p>{heading}</p><ul>{items}</ul></div>'


def _problem(problem: Problem, hide: Hide) -> str:
    name, text = problem.path or "", on_page(f"{problem.what} {problem.fix}".strip())
    if name in fields():
        return escape(f"{label_of(name)} ({name}): {hide(text)}")
    return escape(hide(f"{name}: {text}" if name else text))


def model_html(shown: RunSnapshot) -> str:
    """Where the model of a run that has ended lies; empty while one goes on, and where nothing was saved."""
    places = {"Checkpoint": shown.checkpoint, "Single file for a webui": shown.single_file}
    there = {name: path for name, path in places.items() if path and path.exists()}
    if shown.is_active or shown.elsewhere or not there:
        return ""
    note = "" if shown.single_file else f'<p class="ed-note">{NO_SINGLE_FILE}</p>'
    rows = "".join(f"<dt>{name}</dt><dd>{escape(str(there[name]))}</dd>" for name in reversed(places) if name in there)
    return (
        f'<section class="ed-card ed-model" aria-label="Your model"><h3>Your model</h3><dl>{rows}</dl>{note}</section>'
    )


def figures_html(shown: RunSnapshot) -> str:
    """Step, epoch, speed, time left, loss and learning rate."""
    left = "–" if shown.seconds_left is None else duration(shown.seconds_left)
    figures = {
        "Step": f"{shown.step:,} of {shown.total:,}" if shown.total else "–",
        "Epoch": f"{shown.epoch:,} of {shown.max_epochs:,}" if shown.epoch else "–",
        "Speed": "–" if shown.images_per_second is None else f"{shown.images_per_second:.1f} images/s",
        "Time left": left,
        "Loss": "–" if shown.loss is None else f"{shown.loss:.4f}",
        "Learning rate": "–" if shown.lr is None else f"{shown.lr:.3g}",
        "Images": f"{shown.images:,}" if shown.images else "–",
        "Computes on": escape(shown.device) or "–",
    }
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items())
    title = escape(shown.project) or "No run yet"
    return f'<section class="ed-card" aria-label="Figures of the run"><h3>{title}</h3>'\
           f'<dl class="ed-figures">{rows}</dl></section>'  # fmt: skip


def memory_html(memory: MemoryUse | None, peaks: Iterable[MemoryMeasured] = ()) -> str:
    """Memory of the card and of the computer as bars, and what was planned beside what was measured."""
    if memory is None:
        return (
            '<section class="ed-card" aria-label="Memory"><h3>Memory</h3><p class="ed-note">Not read yet.</p></section>'
        )
    card = _memory(memory.card_name or "Card", memory.card) if memory.card else (
        '<p class="ed-note">No NVIDIA card is in use: the run computes on the processor.</p>')  # fmt: skip
    busy = (
        f'<p class="ed-note">The card is busy {memory.busy_percent} % of the time.</p>' if memory.busy_percent else ""
    )
    told = "".join(f'<p class="ed-note">{escape(described(peak))}</p>' for peak in peaks)
    bars = card + busy + told + _memory("Computer", memory.pc)
    return f'<section class="ed-card" aria-label="Memory"><h3>Memory</h3>{bars}</section>'


def _memory(name: str, share: Share) -> str:
    own, others = (100 * part / max(share.total, 0.1) for part in (share.own, share.others))
    free = max(0.0, share.total - share.own - share.others)
    told = f"this program {share.own:.1f}, others {share.others:.1f} of {share.total:.1f} GB"
    return (
        f'<div class="ed-memory"><div class="ed-memory-text"><strong>{escape(name)}</strong>'
        f"<span>{free:.1f} of {share.total:.1f} GB free</span></div>"
        f'<div class="ed-stack" role="img" aria-label="{escape(name)}: {told}"><i class="own" style="width:{own:.1f}%">'
        f'</i><i class="others" style="width:{others:.1f}%"></i></div><p class="ed-note ed-legend">'
        f'<span><i class="ed-key own"></i>this program {share.own:.1f} GB</span>'
        f'<span><i class="ed-key others"></i>others {share.others:.1f} GB</span></p></div>'
    )


def empty_html(text: str) -> str:
    """Said where there is nothing to show yet."""
    return f'<div class="ed-empty">{escape(text)}</div>'


def from_program(text: str) -> str:
    """The text with what lies in the program's folder named from there."""
    return text.replace(f"{PROGRAM_DIR}{os.sep}", "")


def log_html(lines: Iterable[str], *, hide: Hide = from_program) -> str:
    """The last lines of the log, the newest at the end."""
    shown = escape("\n".join(hide(on_page(line)) for line in lines)) or "Nothing has happened yet."
    return f'<pre class="ed-log" tabindex="0" aria-label="Log of the run">{shown}</pre>'
