"""The live view of a run, the same in the Train tab and on the monitor page: figures, memory, curves, samples, log."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from ed2.app.adviser import Judgement, advise
from ed2.app.snapshot import RunSnapshot, Section
from ed2.checkpoint.identity import best_validated, checkpoints_of
from ed2.small_files import parse_object
from ed2.ui.charts import EMPTY_SVG, ChartRun, chart_news
from ed2.ui.hiding import Hide
from ed2.ui.html import empty_html, escape, figures_html, log_html, memory_html, short_paths
from ed2.ui.image_copies import ImageCopies
from ed2.ui.matrix import Matrix, Trained, columns_of
from ed2.ui.page_state import PageState
from ed2.ui.wiring import TICK, Updates

LOG_LINES = 120
NO_SAMPLES = "No samples: they are drawn before the first step, then at the interval set in the Sampling tab."
NO_CURVES = "No curves: they start at the first step."
ASK = "ed.askLive"
SEEN: tuple[Section, ...] = ("status", "memory", "log", "problems")
LOOKS = {"learning": "good", "flat": "wait", "unstable": "bad", "memorising": "wait", "early": "busy", "off": ""}

OFFER = '<p><button type="button" class="ed-link" data-validate="">Validate the next run</button></p>'


@dataclass(frozen=True)
class Held:
    """What a page says that it holds of curves and samples; it may be anything.

    Attributes:
        is_away: whether they cannot be seen now, so that the page wants none.
        key: of which run, as `LiveData` names it.
        revisions: of its curves and samples.
    """

    is_away: bool = True
    key: str = ""
    revisions: Mapping[str, object] = field(default_factory=dict)
    curves: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, sent: object) -> "Held":
        """What a browser has sent."""
        try:
            values = parse_object(sent.encode()) if isinstance(sent, str) else {}
        except ValueError:
            values = {}
        parts = {name: values.get(name) for name in ("revisions", "curves", "samples")}
        known = {name: part for name, part in parts.items() if isinstance(part, dict)}
        return cls(values.get("away") is not False, str(values.get("key", "")), **known)


class LiveData:
    """Curves and samples as data for `live.js`: what a page does not hold yet, whatever got lost on the way.

    Create it inside a `gr.Blocks`, outside of tabs: what is in a tab that was never opened gets no updates.
    """

    def __init__(
        self, samples: ImageCopies, *, is_owner: bool = False, trained: Callable[[Path], Trained] | None = None
    ) -> None:
        """Show samples by these copies; `trained` gives what finds the training images of the run in a folder."""
        self._copies, self.is_owner, self._trained = samples, is_owner, trained
        self.held = gr.Textbox(visible=False)
        self.news = gr.HTML("", visible="hidden", elem_id="live-news", js_on_load="ed.watchNews(element)")

    def updates(self, shown: RunSnapshot, held: Held) -> Updates:
        """What the page has to take over, if it can be seen and anything has changed."""
        if held.is_away:
            return {}
        key = f"{self._copies.route} {shown.sequence}"
        if held.key != key:
            held = Held(is_away=False)
        news: dict[str, Any] = {}
        if held.revisions.get("loss") != shown.revisions.get("loss", 0):
            news["charts"] = chart_news(ChartRun.of(shown), held.curves)
        if held.revisions.get("samples") != shown.revisions.get("samples", 0):
            news["samples"] = self._samples(shown, held)
        if not news:
            return {}
        news |= {"key": key, "revisions": {name: shown.revisions.get(name, 0) for name in ("loss", "samples")}}
        return {self.news: f'<i data-news="{escape(json.dumps(news, separators=(",", ":")))}"></i>'}

    def _samples(self, shown: RunSnapshot, held: Held) -> dict[str, Any]:
        self._copies.keep_only(str(shown.run_dir))
        folders = [shown.run_dir] if shown.run_dir else []
        columns = columns_of(shown.samples)
        matrix = Matrix(columns, self._copies, folders)
        if self._trained and shown.run_dir:
            matrix = Matrix(columns, self._copies, folders, self._trained(shown.run_dir))
        news = matrix.news(held.samples)
        return {**news, "owner": self.is_owner}


class LivePanel:
    """Components that follow the run; create it inside a `gr.Blocks`.

    Args:
        data: the curves and samples.
        hide: removes paths.
        below_samples: creates what the owner's page has between samples and log.
    """

    def __init__(
        self, data: LiveData, *, hide: Hide = short_paths, below_samples: Callable[[], object] = lambda: None
    ) -> None:
        self.data, self._hide = data, hide
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.figures = gr.HTML(figures_html(RunSnapshot()), js_on_load=None)
            with gr.Column(scale=2, min_width=300):
                self.memory = gr.HTML(memory_html(None), elem_id="memory-card", js_on_load=None)
        js = "ed.watchAdviser(element, trigger)" if data.is_owner else None
        self.adviser = gr.HTML("", elem_id="adviser", js_on_load=js)
        gr.Markdown("### Curves")
        charts = f'<div class="ed-charts">{empty_html(NO_CURVES)}{EMPTY_SVG}</div>'
        self.charts = gr.HTML(charts, elem_id="loss-chart", js_on_load="ed.watchLive(element, trigger)")
        gr.Markdown("### Samples")
        matrix = f'<div id="samples-matrix" class="ed-matrix">{empty_html(NO_SAMPLES)}</div>'
        self.gallery = gr.HTML(matrix, elem_id="samples-gallery", js_on_load="ed.watchSamples(element, trigger)")
        below_samples()
        gr.Markdown("### Log")
        self.log = gr.HTML(log_html(()), elem_id="log-tail", js_on_load=None, autoscroll=True, max_height=340)

    def ask_when_seen(self, tick: Callable[..., Updates], outputs: list[Any]) -> None:
        """Ask at once when curves and samples come into view, as at an opened tab: not only with the next tick."""
        self.charts.submit(tick, self.inputs, outputs, js=ASK, **TICK)

    @property
    def outputs(self) -> list[Any]:
        """What `updates` may change."""
        return [self.figures, self.memory, self.adviser, self.data.news, self.log]

    @property
    def inputs(self) -> list[Any]:
        """What a page says that it holds; give its event `js=ASK`."""
        return [self.data.held]

    def seen_with(self, shown: RunSnapshot) -> Mapping[str, object]:
        """What an updated page shows of the run, besides curves and samples."""
        seen: dict[str, object] = {str(name): shown.revisions.get(name) for name in SEEN}
        return {**seen, "state": shown.state, "elsewhere": shown.elsewhere, "advice": adviser_key(shown)}

    def updates(self, shown: RunSnapshot, page: PageState) -> Updates:
        """Updates for everything that the page shows outdated, besides curves and samples."""
        updates: Updates = {}
        if page.is_outdated("status", shown):
            updates[self.figures] = figures_html(shown)
        if page.is_outdated("memory", shown):
            updates[self.memory] = memory_html(shown.memory, shown.peaks)
        if page.seen.get("advice") != adviser_key(shown):
            updates[self.adviser] = adviser_html(shown, is_owner=self.data.is_owner)
        if page.is_outdated("log", shown):
            updates[self.log] = log_html(shown.log[-LOG_LINES:], hide=self._hide)
        return updates


def adviser_html(shown: RunSnapshot, *, is_owner: bool) -> str:
    """What to think of the run, and its best checkpoint; empty without a run.

    The owner is offered to validate the next run, if this one is not validated.
    """
    if shown.run_dir is None:
        return ""
    advice = advise(shown)
    best = ""
    if advice.best:
        step, loss = advice.best
        where = _best_checkpoint(shown.run_dir, step, shown.saves)
        best = f'<p class="ed-note">Lowest validation loss: {loss:.4f} at step {step:,}. {escape(where)}</p>'
    pill = f'<span class="ed-pill" data-look="{LOOKS[advice.verdict]}">{escape(advice.headline)}</span>'
    return (
        f'<section class="ed-card ed-advice-card" aria-label="Adviser" data-verdict="{advice.verdict}">{pill}'
        f"<p>{escape(advice.text)}</p>{best}{OFFER if is_owner and advice.verdict == 'off' else ''}</section>"
    )


def adviser_key(shown: RunSnapshot) -> tuple[Judgement, object, object]:
    """Changes whenever `adviser_html` does."""
    return advise(shown), shown.run_dir, shown.saves


@lru_cache(maxsize=64)
def _best_checkpoint(run_dir: Path, best_step: int, saves: tuple[int, ...]) -> str:
    """The best checkpoint of a run, looked up once for each save and each new best validation."""
    best = best_validated(checkpoints_of(run_dir))
    if best is None:
        return "No checkpoint was saved after the first validation."
    return f"Best of the saved checkpoints: {best.name}."
