"""Pieces of HTML: status, figures, memory, problems and charts. Every text is escaped."""

import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ed2.app.background import TaskStatus
from ed2.app.page.start import MissingChoice
from ed2.app.reporters.log import describe
from ed2.app.snapshot import RunSnapshot
from ed2.errors import Problem
from ed2.events import MemoryMeasured
from ed2.settings.fields import fields, label_of
from ed2.settings.files import PROGRAM_DIR
from ed2.terminal import LAUNCHER
from ed2.text import counted, listed, rough_duration, visible
from ed2.ui.hiding import Hide
from ed2.vram.sampler import MemoryUse, Share

STATES = {
    "connecting": ("", "Loading …"),
    "idle": ("", "Ready"),
    "preparing": ("busy", "Preparing"),
    "training": ("busy", "Training"),
    "sampling": ("busy", "Sampling"),
    "paused": ("wait", "Paused"),
    "stopping": ("wait", "Stopping"),
    "done": ("good", "Done"),
    "stopped": ("wait", "Stopped"),
    "failed": ("bad", "Failed"),
}
"""The style and label of each state."""
ELSEWHERE = ("busy", "Running elsewhere")
NO_VALUE = "–"
_DOWNLOAD = re.compile(rf"{re.escape(LAUNCHER)} download \S+")
_OPTION = re.compile(r"(?<![^\s(“\"'])--([a-z][a-z0-9_]*)\b(?![-=])")
_ON_PAGE = {
    "check": "Check in the Dataset tab",
    "suggest": "Make it fit in the Settings tab",
    "test_resume": "Test resume in the Resume tab",
    "vram_gb": "“GPU memory”",
    "config": "the settings file",
}
"""What the page calls options that are not settings."""


def escape(text: str) -> str:
    """The text as HTML, with control characters spelled out."""
    return html.escape(visible(text))


def on_page(text: str) -> str:
    """The text with command-line options under the names that the page has for them; control characters spelled out."""
    return _OPTION.sub(_name_on_page, _DOWNLOAD.sub("“Choose a base model” in the Settings tab", visible(text)))


def _name_on_page(found: re.Match[str]) -> str:
    name = found[1]
    if name in fields():
        return f"“{label_of(name)}”"
    return _ON_PAGE.get(name, found[0])


def short_paths(text: str) -> str:
    """The text with paths below the program's folder written from there."""
    return text.replace(f"{PROGRAM_DIR}{os.sep}", "")


def note_html(text: str) -> str:
    """A remark in small letters; nothing without a text."""
    return text and f'<p class="ed-note">{escape(text)}</p>'


def task_html(
    box_id: str, shown: TaskStatus, looks: Mapping[str, tuple[str, str]], note: str = "", more: str = ""
) -> str:
    """How far work in the background is, or what came of it; announced by screen readers.

    Args:
        box_id: of the element.
        shown: the state of the work.
        looks: the style and label of each state that is shown.
        note: why none can be started now.
        more: HTML of what came of it.
    """
    html = note_html(note)
    if shown.state in looks:
        look, name = looks[shown.state]
        text = escape(on_page(shown.text)).replace("\n", "<br>")
        html += f'<p><span class="ed-pill" data-look="{look}">{name}</span> {text}</p>'
    return f'<div id="{box_id}" data-state="{shown.state}" role="status">{html}{more}</div>'


def list_html(items: Iterable[str], kind: str = "", attributes: str = "") -> str:
    """A list of pieces of HTML; `kind` is its class."""
    content = "".join(f"<li>{item}</li>" for item in items)
    return f'<ul class="{kind}" {attributes}>{content}</ul>'


def button_html(name: str, path: Path, note: str = "") -> str:
    """A button: a folder to open, or a model to choose."""
    if note:
        note = f"<br><small>{escape(note)}</small>"
    return f'<button type="button" data-location="{escape(str(path))}">{escape(name)}{note}</button>'


def link_html(text: str, tab: str, setting: str = "", label: str = "") -> str:
    """A button that opens a tab and goes to a field there."""
    name = f' aria-label="{escape(label)}"' if label else ""
    return (
        f'<button type="button" class="ed-link" data-tab="{tab}" data-field="{setting}"{name}>{escape(text)}</button>'
    )


def buttons_html(heading: str, buttons: Sequence[str]) -> str:
    """Buttons in a row under a heading; nothing without buttons."""
    if not buttons:
        return ""
    return note_html(heading) + list_html(buttons, "ed-folders", f'aria-label="{heading}"')


def empty_html(text: str) -> str:
    """A placeholder where there is nothing to show yet."""
    return f'<div class="ed-empty">{escape(text)}</div>'


def status_html(shown: RunSnapshot | None, *, hide: Hide = str) -> str:
    """The state in the strip; None while the program has not answered."""
    if shown is None:
        return _status(RunSnapshot(), "connecting", "")
    parts = [shown.project, shown.asked, hide(on_page(_activity(shown)))]
    parts[1:1] = _progress(shown)
    return _status(shown, shown.state, " · ".join(filter(None, parts)))


def _progress(shown: RunSnapshot) -> list[str]:
    parts = []
    if shown.epoch:
        parts.append(f"epoch {shown.epoch:,} of {shown.max_epochs:,}")
    if shown.total:
        parts.append(f"step {shown.step:,} of {shown.total:,}")
    if shown.seconds_left is not None and shown.state != "stopping":
        parts.append(f"about {rough_duration(shown.seconds_left)} of training left")
    return parts


def _activity(shown: RunSnapshot) -> str:
    """What is being done now, or how it ended."""
    if shown.is_saving:
        return "saving a checkpoint"
    if shown.progress and shown.state != "stopping":
        return shown.progress
    if shown.state == "idle":
        return shown.detail or "Fill in the tabs, then press Train."
    if shown.state == "failed":
        return ""
    return shown.detail


def _status(shown: RunSnapshot, state: str, text: str) -> str:
    step, total = shown.step, shown.total
    percent = 100 * step / max(1, total)
    look, name = ELSEWHERE if shown.elsewhere else STATES[state]
    data = f'data-state="{state}" data-step="{step}" data-total="{total}" data-saving="{str(shown.is_saving).lower()}"'
    return (
        f'<section id="status" class="ed-status" aria-label="Run status" {data}>'
        f'<span class="ed-pill" data-look="{look}">{name}</span>'
        f'<span class="ed-status-text">{escape(text)}</span>'
        f'<div class="ed-bar" role="progressbar" aria-label="Steps done" aria-valuemin="0" aria-valuemax="{total}" '
        f'aria-valuenow="{step}"><i style="width:{percent:.1f}%"></i></div></section>'
    )


def problems_html(
    problems: Sequence[Problem],
    *,
    box_id: str = "problems",
    hide: Hide = str,
    is_form: bool = True,
    most: int | None = None,
) -> str:
    """What is wrong and what to do, in a box that screen readers announce; an empty box without problems.

    Args:
        problems: one by one.
        box_id: of the box.
        hide: removes paths.
        is_form: whether the page has the form, so that the problem of a setting is a button that leads to its field.
        most: so many are listed, and the rest is counted; None lists all.
    """
    if not problems:
        return f'<div id="{box_id}" class="ed-problems" role="alert"></div>'
    lines = [_problem(problem, hide, is_form=is_form) for problem in problems[:most]]
    if more := len(problems) - len(lines):
        lines.append(f"and {more:,} more.")
    items = list_html(lines)
    are_warnings = all(problem.is_warning for problem in problems)
    heading = "1 problem needs your attention:"
    if are_warnings:
        heading = f"{counted(len(problems), 'warning')} from this run:"
    elif len(problems) > 1:
        heading = f"{len(problems):,} problems need your attention:"
    kind = "ed-problems ed-warnings" if are_warnings else "ed-problems"
    return f'<div id="{box_id}" class="{kind}" role="alert"><p>{heading}</p>{items}</div>'


def tab_of(setting: str) -> str:
    """The tab that has the field of a setting."""
    if setting == "data_root":
        return "dataset"
    return "sampling" if fields()[setting].group == "sampling" else "settings"


def jump_html(setting: str, text: str) -> str:
    """A button that leads to the field of a setting."""
    place = f'data-setting="{setting}" data-tab="{tab_of(setting)}"'
    return f'<button type="button" class="ed-jump" {place}>{escape(text)}</button>'


def _problem(problem: Problem, hide: Hide, *, is_form: bool) -> str:
    name, text = problem.path or "", on_page(f"{problem.what} {problem.fix}".strip())
    if name in fields():
        told = f"{label_of(name)} ({name}): {hide(text)}"
        return jump_html(name, told) if is_form else escape(told)
    return escape(hide(": ".join(filter(None, (name, text)))))


def missing_html(missing: Sequence[MissingChoice]) -> str:
    """What has to be chosen before Train can be pressed, each with a link to its field; an empty line for nothing.

    Of what was chosen and is not there it says so.
    """
    text = ""
    if missing:
        links = listed([link_html(thing.name, thing.tab, thing.setting) for thing in missing])
        text = f"<strong>{counted(len(missing), 'thing')} missing:</strong> {links}"
        if wrong := [escape(thing.what) for thing in missing if thing.is_chosen]:
            text += f" · {' '.join(wrong)}"
    return f'<p id="missing" role="status" class="ed-missing">{text}</p>'


def figures_html(shown: RunSnapshot) -> str:
    """Step, epoch, speed, time left, loss and learning rate."""
    figures = {
        "Step": f"{shown.step:,} of {shown.total:,}" if shown.total else NO_VALUE,
        "Epoch": f"{shown.epoch:,} of {shown.max_epochs:,}" if shown.epoch else NO_VALUE,
        "Speed": _formatted(shown.images_per_second, ".1f", " images/s"),
        "Training time left": NO_VALUE if shown.seconds_left is None else rough_duration(shown.seconds_left),
        "Last loss": _formatted(shown.loss, ".4f"),
        "Learning rate": _formatted(shown.lr, ".3g"),
        "Training images": _formatted(shown.images or None, ","),
        "Device": escape(shown.device) or NO_VALUE,
    }
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items())
    title = escape(shown.project) or ("Preparing" if shown.is_active else "No run yet")
    figures_list = f'<dl class="ed-figures">{rows}</dl>'
    return f'<section class="ed-card" aria-label="Run figures"><h3>{title}</h3>{figures_list}</section>'


def figure_list_html(figures: Mapping[str, str], kind: str = "ed-figures") -> str:
    """Figures by name as a list; `kind` is its class."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures.items())
    return f'<dl class="{kind}">{rows}</dl>'


def _formatted(value: float | None, form: str, unit: str = "") -> str:
    return NO_VALUE if value is None else f"{value:{form}}{unit}"


def memory_html(memory: MemoryUse | None, peaks: Iterable[MemoryMeasured] = ()) -> str:
    """Memory of the GPU and of the computer as bars, and the planned peaks beside the measured ones."""
    if memory is None:
        html = note_html("Not measured yet.")
    else:
        html = "" if memory.cards else note_html("No NVIDIA GPU in use; training runs on the CPU.")
        for number, card in enumerate(memory.cards, 1):
            place = f" ({number} of {len(memory.cards)})" if len(memory.cards) > 1 else ""
            html += _memory_bar(f"{card.name or 'GPU'}{place}", card.share)
            if card.busy_percent:
                html += note_html(f"GPU utilization: {card.busy_percent} %")
        html += "".join(note_html(describe(peak)) for peak in peaks)
        html += _memory_bar("System RAM", memory.pc)
    return f'<section class="ed-card" aria-label="Memory"><h3>Memory</h3>{html}</section>'


def _memory_bar(name: str, share: Share) -> str:
    own, others = (100 * part / max(share.total, 0.1) for part in (share.own, share.others))
    free = max(0.0, share.total - share.own - share.others)
    ours, theirs = f"this program {share.own:.1f} GB", f"others {share.others:.1f} GB"
    label = f"{escape(name)}: this program {share.own:.1f}, others {share.others:.1f} of {share.total:.1f} GB"
    legend = f'<span><i class="ed-key own"></i>{ours}</span><span><i class="ed-key others"></i>{theirs}</span>'
    if not share.is_split:
        label = f"{escape(name)}: in use {share.others:.1f} of {share.total:.1f} GB"
        legend = f'<span><i class="ed-key others"></i>in use {share.others:.1f} GB</span>'
    return (
        f'<div class="ed-memory"><div class="ed-memory-text"><strong>{escape(name)}</strong>'
        f"<span>{free:.1f} of {share.total:.1f} GB free</span></div>"
        f'<div class="ed-stack" role="img" aria-label="{label}"><i class="own" style="width:{own:.1f}%">'
        f'</i><i class="others" style="width:{others:.1f}%"></i></div><p class="ed-note ed-legend">{legend}</p></div>'
    )


def log_html(lines: Iterable[str], *, hide: Hide = short_paths) -> str:
    """The last lines of the log, the newest at the end."""
    text = escape("\n".join(hide(on_page(line)) for line in lines)) or "The log is empty."
    return f'<pre class="ed-log" tabindex="0" aria-label="Log">{text}</pre>'
