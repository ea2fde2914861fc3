"""The report of a run: one HTML file that opens offline, can be printed, and holds no folder of this computer.

python -m ed2 report RUN
"""

import argparse
import base64
import io
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from ed2.app.command_line import CommandSyntax
from ed2.app.page.folders import paths_of
from ed2.app.runs.facts import RunFacts, last_name, shown_value
from ed2.app.runs.records import RunRecord, find_run
from ed2.app.snapshot import ShownSample
from ed2.checkpoint.identity import run_at
from ed2.data.images import ImageError, decode
from ed2.disk import write_whole
from ed2.disk_errors import plain_reason
from ed2.errors import Ed2Error, Problem, SettingsError, printable
from ed2.settings.fields import label_of
from ed2.settings.files import PROGRAM_DIR
from ed2.terminal import LAUNCHER
from ed2.text import counted, file_size, shown_path, step_name
from ed2.ui.charts import ChartRun, charts_html
from ed2.ui.hiding import without_paths
from ed2.ui.html import escape, figure_list_html

REPORT_FILE = "report.html"
MAX_STEPS, MAX_PROMPTS = 8, 24
"""Columns and rows of the samples: more would not fit on paper."""
SIDE = 256
"""Pixels of a sample's longer side."""
STYLES = ("studio.css", "report.css")
SCRIPTS = ("charts.js",)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
START = """\
const dark = matchMedia('(prefers-color-scheme: dark)'), root = document.documentElement;
const follow = () => root.classList.toggle('dark', dark.matches);
dark.addEventListener('change', follow);
addEventListener('beforeprint', () => {
  root.classList.remove('dark');
  for (const one of document.querySelectorAll('details')) one.open = true;
});
addEventListener('afterprint', follow);
follow();
edCharts.mountAll();"""


def _write(given: argparse.Namespace) -> None:
    """Raises Ed2Error."""
    folder = run_at(Path(given.words[0]).absolute())
    record = find_run(folder.parent, folder.name) if folder else None
    if record is None:
        what, fix = "there is no run.", "Give the folder of a run, such as logs/NAME_20260101-120000."
        raise SettingsError("Invalid command line:", [Problem(printable(given.words[0], 200), what, fix)])
    sys.stdout.write(f"Wrote {shown_path(write_report(record))}\n")


def write_report(record: RunRecord) -> Path:
    """Write the report into the run's folder, in place of an earlier one; returns its path.

    Raises:
        Ed2Error: it cannot be written.
    """
    path = record.folder / REPORT_FILE
    try:
        write_whole(path, report_html(RunFacts.of(record)).encode(errors="backslashreplace"))
    except OSError as error:
        raise Ed2Error("The report cannot be written", f"{plain_reason(error)}.", "Free some space there.") from error
    return path


def report_html(run: RunFacts) -> str:
    """The report as HTML."""
    here = Path(__file__)
    styles = "".join(here.with_name(name).read_text(encoding="utf-8") for name in STYLES)
    scripts = "".join(here.with_name(name).read_text(encoding="utf-8") for name in SCRIPTS)
    sections = (
        _top(run),
        _section("Notes", _notes(run)),
        _section("Curves", _curves(run)),
        _section("Samples over time", _samples(run)),
        _section("Settings", _settings(run)),
        _section("Images", _images(run)),
        _section("Checkpoints", _checkpoints(run)),
        _section("GPU memory", _memory(run)),
        _section("Versions", _versions(run)),
    )
    title = escape(_clean(run, run.record.name))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{styles}</style></head><body><main>{''.join(sections)}</main>"
        f"<script>{scripts}\n{START}</script></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f'<section aria-label="{title}"><h2>{title}</h2>{content}</section>' if content else ""


def _clean(run: RunFacts, text: str) -> str:
    """A text without the folders of this computer that are known from the run; other slashes stay, as in a prompt."""
    places = [path for paths in paths_of(run.settings).values() for path in paths if path.is_absolute()]
    places += [run.record.folder, *run.record.folder.parents[:2], PROGRAM_DIR, Path.home()]
    for place in sorted({str(place) for place in places if len(place.parts) > 1}, key=len, reverse=True):
        text = text.replace(place, Path(place).name)
    return text


def _top(run: RunFacts) -> str:
    record, shown = run.record, run.shown
    cover = ""
    if record.last_sample and (address := _data_address(record.last_sample)):
        cover = f'<img src="{address}" alt="Last sample">'
    detail = without_paths(shown.detail, [record.folder]) if shown.detail else ""
    lines = [f"{record.folder.name} · written {datetime.now():%Y-%m-%d %H:%M}", detail]
    about = "".join(f'<p class="pale">{escape(line)}</p>' for line in lines if line)
    state = f'<p><span class="state" data-state="{record.state}">{record.state}</span></p>'
    head = f'<div class="top"><div><h1>{escape(_clean(run, record.name))}</h1>{state}{about}</div>{cover}</div>'
    return f"<header>{head}{figure_list_html(key_figures(run), 'figures')}</header>"


def key_figures(run: RunFacts) -> dict[str, str]:
    """The most telling numbers of a run."""
    record, shown = run.record, run.shown
    figures = {
        "Steps": f"{record.step:,} of {record.total:,}",
        "Epochs": f"{shown.epoch or 0:,} of {record.max_epochs:,}",
        "Training images": f"{run.num_images:,}",
        "Base model": last_name(str(run.manifest.get("base_model") or run.settings.get("resume_ckpt") or "")),
        "Method": shown_value("method", run.settings.get("method", "full")),
        "Device": str(run.manifest.get("device") or shown.device or "–"),
    }
    if record.loss is not None:
        figures["Last loss"] = f"{record.loss:.4f}"
    if record.best:
        figures["Best validation"] = f"{record.best[1]:.4f} at step {record.best[0]:,}"
    return {name: without_paths(text) for name, text in figures.items()}


def _notes(run: RunFacts) -> str:
    text = _clean(run, run.record.notes.text)
    return f'<div class="card notes">{escape(text)}</div>' if text else ""


def _curves(run: RunFacts) -> str:
    return f'<div class="card">{charts_html([ChartRun.of(run.shown)])}</div>'


def _samples(run: RunFacts) -> str:
    """A table of prompts and steps, from the first to the last, evenly chosen where there are many."""
    steps = spread(sorted({one.step for one in run.shown.samples}), MAX_STEPS)
    rows: dict[tuple[int, str], dict[int, ShownSample]] = {}
    for one in run.shown.samples:
        if one.step in steps:
            rows.setdefault((one.sample.index, one.sample.prompt), {})[one.step] = one
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(step_name(step))}</th>' for step in steps)
    shown = sorted(rows.items(), key=lambda row: row[0][0])[:MAX_PROMPTS]
    body = "".join(_sample_row(_clean(run, prompt), row, steps) for (_, prompt), row in shown)
    left_out = len(rows) - len(shown)
    more = f'<p class="pale">{counted(left_out, "more prompt")} in the folder samples.</p>' if left_out > 0 else ""
    return f'<div class="card over"><table class="samples"><tr><td></td>{head}</tr>{body}</table></div>{more}'


def spread(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of the steps, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    places = {round(place * (len(steps) - 1) / (most - 1)) for place in range(most)}
    return [steps[place] for place in sorted(places)]


def _sample_row(prompt: str, row: Mapping[int, ShownSample], steps: Sequence[int]) -> str:
    cells = ""
    for step in steps:
        image = ""
        if step in row and (address := _data_address(row[step].sample.path)):
            words = escape(f"{step_name(step)}: {prompt}")
            image = f'<img src="{address}" alt="{words}">'
        cells += f"<td>{image}</td>"
    return f'<tr><th scope="row">{escape(prompt)}</th>{cells}</tr>'


def _data_address(path: Path) -> str:
    """A small copy of an image as an address that holds it; empty if it cannot be read."""
    try:
        image = decode(path)
    except (OSError, ImageError):
        return ""
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _settings(run: RunFacts) -> str:
    """Those that were changed, and all others to unfold."""
    changed = run.changed
    others = {name: value for name, value in run.settings.items() if name not in changed}
    html = f'<div class="card">{settings_table(changed)}' if changed else '<div class="card">'
    if others:
        title = f"{counted(len(others), 'setting')} at the default"
        html += f"<details><summary>{title}</summary>{settings_table(others)}</details>"
    return f"{html}</div>" if run.settings else ""


def settings_table(settings: Mapping[str, object]) -> str:
    """Settings with their values, without the folders of paths."""
    rows = "".join(
        f"<tr><td>{escape(label_of(name))} <code>{name}</code></td><td>{escape(shown_value(name, value))}</td></tr>"
        for name, value in settings.items()
    )
    return f"<table><tr><th>Setting</th><th>Value</th></tr>{rows}</table>"


def _images(run: RunFacts) -> str:
    dataset = run.manifest.get("dataset")
    known: Mapping[str, Any] = dataset if isinstance(dataset, dict) else {}
    facts = {
        "Images to train on": f"{run.num_images:,}",
        "Image folders": shown_value("data_root", run.settings.get("data_root", [])),
        "Resolution": shown_value("resolution", run.settings.get("resolution")),
        "Fingerprint": str(known.get("fingerprint", "–"))[:16],
    }
    if run.shown.left_out:
        facts["Left out during the run"] = f"{run.shown.left_out:,}"
    return figure_list_html(facts, "figures")


def _checkpoints(run: RunFacts) -> str:
    rows = ""
    for one in run.checkpoints:
        validation = "–" if one.validation is None else f"{one.validation:.4f}"
        marks = ", ".join(
            filter(None, ["can be resumed" if one.can_resume else "", "protected" if one.is_kept else ""])
        )
        rows += (
            f'<tr><td>{escape(one.path.name)}</td><td class="number">{one.step:,}</td>'
            f'<td class="number">{validation}</td><td class="number">{file_size(one.size_bytes)}</td>'
            f"<td>{escape(one.saved_at)}</td><td>{marks}</td></tr>"
        )
    head = "<tr><th>Name</th><th>Step</th><th>Validation</th><th>Size</th><th>Saved (UTC)</th><th></th></tr>"
    return f'<div class="card over"><table>{head}{rows}</table></div>' if rows else ""


def _memory(run: RunFacts) -> str:
    most = max((max(peak.high_gb, peak.measured_gb) for peak in run.shown.peaks), default=0.0)
    rows = ""
    for peak in run.shown.peaks:
        bar = f'<div class="bar"><i style="width:{100 * peak.measured_gb / max(most, 0.1):.0f}%"></i></div>'
        planned = f"{peak.planned_gb:.1f} GB ({peak.low_gb:.1f} to {peak.high_gb:.1f})"
        rows += f"<tr><td>While {peak.what}</td><td>{planned}</td><td>{peak.measured_gb:.1f} GB</td><td>{bar}</td></tr>"
    head = "<tr><th>Peak</th><th>Planned</th><th>Measured</th><th></th></tr>"
    return f'<div class="card over"><table>{head}{rows}</table></div>' if rows else ""


def _versions(run: RunFacts) -> str:
    return figure_list_html(run.versions, "figures") if run.versions else ""


COMMAND = CommandSyntax(
    use=f"{LAUNCHER} report RUN",
    help="""\
[-h]

Write report.html into the folder of a run: settings, images, curves, samples, checkpoints, memory and versions in one
file that opens without a network. RUN is the folder of a run; no other file is changed, and no folder of this computer
is named in it.""",
    needs="one run",
    count=[1],
    perform=_write,
)
