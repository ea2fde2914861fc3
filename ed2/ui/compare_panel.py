"""Comparing two to four runs: settings that differ, curves over each other, samples of the same step side by side."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from ed2.app.runs.facts import RunFacts, differing_settings, shown_value
from ed2.app.runs.records import RunRecord, find_run
from ed2.settings.fields import label_of
from ed2.small_files import parse_json
from ed2.text import listed, step_name
from ed2.ui.charts import ChartRun, charts_html
from ed2.ui.context import Context
from ed2.ui.html import escape, note_html
from ed2.ui.matrix import Column, Matrix
from ed2.ui.wiring import SPOKEN, Updates, refusal

FEWEST, MOST = 2, 4
HOW_MANY = f"Select {FEWEST} to {MOST} runs: check their boxes at the right of the list."
SHORTENED = 8
"""Letters that all names have to begin with, to be left out."""
NO_SAMPLES = "No two of these runs have samples of the same step."

Place = Callable[[str], tuple[Any, Any]]


class ComparePanel:
    """A button, a step, and the comparison; the runs are looked up again, never trusted."""

    def __init__(self, context: Context) -> None:
        self._context = context
        with gr.Row(elem_classes="ed-actions"):
            self.start = gr.Button("Compare selected", elem_id="compare-button", min_width=160)
            gr.HTML(note_html(HOW_MANY), js_on_load=None)
            self.stop = gr.Button("Close comparison", elem_id="close-compare-button", visible=False, min_width=160)
        self._picked = gr.Textbox(visible=False)
        self.step = gr.Dropdown(
            [], label="Samples of step", elem_id="compare-step", visible=False, interactive=True, min_width=200
        )
        self.view = gr.HTML("", elem_id="compare", js_on_load="ed.watchMounts(element)")

    def wire(self, logdir: Any, place: Place) -> None:
        """Connect the buttons; `place` gives the runs folder and the folder of the run in progress."""
        self._place = place
        outputs = [self.view, self.step, self.stop, self._picked]
        self.start.click(self.compare, [logdir, self._picked], outputs, js="ed.pickedRuns", **SPOKEN)
        self.step.input(self.show_step, [logdir, self._picked, self.step], self.view, **SPOKEN)
        self.stop.click(self.close, None, outputs, **SPOKEN)

    def compare(self, logdir: str, picked: str) -> Updates:
        """Compare the runs whose boxes are checked."""
        runs = self._runs(logdir, picked)
        steps = common_steps(runs)
        choices = [(step_name(step), step) for step in reversed(steps)]
        chosen = best_step(runs, steps)
        return {
            self.view: compare_html(runs, self._matrix(runs, chosen)),
            self.step: gr.update(choices=choices, value=chosen, visible=bool(steps)),
            self.stop: gr.update(visible=True),
            self._picked: picked,
        }

    def show_step(self, logdir: str, picked: str, step: int | None) -> str:
        """The same with the samples of another step."""
        runs = self._runs(logdir, picked)
        return compare_html(runs, self._matrix(runs, step if step in common_steps(runs) else None))

    def close(self) -> Updates:
        """Show no comparison."""
        hidden = gr.update(visible=False)
        return {self.view: "", self.step: hidden, self.stop: hidden, self._picked: ""}

    def _runs(self, logdir: str, picked: str) -> list[RunFacts]:
        try:
            names = parse_json(picked)
        except ValueError:
            names = None
        if not isinstance(names, list) or not FEWEST <= len(names) <= MOST:
            raise refusal(HOW_MANY)
        folder, active = self._place(logdir)
        found: list[RunRecord | None] = [find_run(folder, str(name), active) for name in names]
        records = [record for record in found if record]
        if len(records) < len(names):
            raise refusal("One of these runs is no longer there. Press Refresh.")
        return [RunFacts.of(record) for record in records]

    def _matrix(self, runs: Sequence[RunFacts], step: int | None) -> str:
        if step is None:
            return note_html(NO_SAMPLES)
        columns = [Column(name, _samples_at(run, step)) for name, run in zip(names_of(runs), runs, strict=True)]
        return Matrix(columns, self._context.run_images, [run.record.folder for run in runs]).as_html()


def common_steps(runs: Sequence[RunFacts]) -> list[int]:
    """The steps that at least two of the runs have samples of."""
    counted: dict[int, int] = {}
    for run in runs:
        for step in {one.step for one in run.shown.samples}:
            counted[step] = counted.get(step, 0) + 1
    return sorted(step for step, count in counted.items() if count > 1)


def best_step(runs: Sequence[RunFacts], steps: Sequence[int]) -> int | None:
    """The last step that most of the runs have; None without any."""
    having = [{one.step for one in run.shown.samples} for run in runs]
    return max(steps, key=lambda step: (sum(step in own for own in having), step), default=None)


def names_of(runs: Sequence[RunFacts]) -> list[str]:
    """What the runs are called, without what all their names begin with: of one project the date and time are left."""
    names = [run.record.name for run in runs]
    if len(set(names)) < len(names):
        names = [run.record.folder.name for run in runs]
    shared = re.match(r".*[_ -]", os.path.commonprefix(names))  # noqa: RUF071 -- of names, not of paths
    if not shared or len(shared[0]) < SHORTENED:
        return names
    return [f"…{name[shared.end() :]}" for name in names]


def compare_html(runs: Sequence[RunFacts], samples: str) -> str:
    """The comparison."""
    names = names_of(runs)
    charts = charts_html([ChartRun.of(run.shown, name) for name, run in zip(names, runs, strict=True)])
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = ""
    for name, values in differing_settings(runs).items():
        cells = "".join(f"<td>{escape(shown_value(name, value))}</td>" for value in values)
        rows += f"<tr><th>{escape(label_of(name))} <code>{name}</code></th>{cells}</tr>"
    table = f"<table><tr><th></th>{heads}</tr>{rows}</table>" if rows else note_html("They have the same settings.")
    title = escape(listed([run.record.name for run in runs]))
    return (
        f'<article class="ed-run-page" aria-label="Comparison"><h3>{title}</h3><h4>Settings that differ</h4>'
        f'<div class="ed-over">{table}</div><h4>Curves</h4>{charts}<h4>Samples side by side</h4>{samples}</article>'
    )


def _samples_at(run: RunFacts, step: int) -> list[Any]:
    return [one.sample for one in run.shown.samples if one.step == step]
