"""The live view of a run, the same in the Train tab and on the monitor page: figures, memory, loss, samples, log."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ed2.app.service import TrainerService
from ed2.app.snapshot import RunSnapshot, ShownSample
from ed2.ui.hiding import Hide
from ed2.ui.html import (
    ZOOMS,
    empty_html,
    escape,
    figures_html,
    list_html,
    log_html,
    loss_html,
    memory_html,
    note_html,
    short_paths,
)
from ed2.ui.image_copies import ImageCopies
from ed2.ui.page_state import PageState
from ed2.ui.wiring import QUIET, Updates

MAX_SHOWN = 60
LOG_LINES = 120
WHOLE_RUN = next(iter(ZOOMS))
NO_SAMPLES = "Samples appear here before the first step, then at the interval set in the Sampling tab."


@dataclass(frozen=True)
class View:
    """What a page has chosen to see: a part of the loss, a prompt, and a position over time, from 0 to 100."""

    zoom: str = WHOLE_RUN
    prompt: str | None = None
    time: float = 100

    @classmethod
    def of(cls, zoom: object, prompt: object, time: object) -> "View":
        """What a browser has sent, which may be anything."""
        known = zoom if isinstance(zoom, str) and zoom in ZOOMS else WHOLE_RUN
        is_number = isinstance(time, int | float) and math.isfinite(time)
        place = float(time) if isinstance(time, int | float) and is_number else 100.0
        return cls(known, prompt if isinstance(prompt, str) else None, min(100.0, max(0.0, place)))


class LivePanel:
    """Components that follow the run; create it inside a `gr.Blocks`."""

    def __init__(self, service: TrainerService, samples: ImageCopies, *, hide: Hide = short_paths) -> None:
        self._service, self._copies, self._hide = service, samples, hide
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.figures = gr.HTML(figures_html(RunSnapshot()), js_on_load=None)
            with gr.Column(scale=2, min_width=300):
                self.memory = gr.HTML(memory_html(None), elem_id="memory-card", js_on_load=None)
        with gr.Row(elem_classes="ed-heading"):
            gr.Markdown("### Loss")
            self.zoom = gr.Radio(
                list(ZOOMS), value=WHOLE_RUN, label="Range", show_label=False, container=False, elem_id="loss-zoom"
            )
        self.loss = gr.HTML(loss_html(()), elem_id="loss-chart", js_on_load=None)
        gr.Markdown("### Samples, newest first")
        self.gallery = gr.HTML(empty_html(NO_SAMPLES), elem_id="samples-gallery", js_on_load=None)
        with gr.Accordion("One prompt over time", open=False):
            self.prompt = gr.Dropdown([], label="Prompt", elem_id="history-prompt", interactive=True)
            label = "Position (0: first sample, 100: latest sample)"
            self.time = gr.Slider(0, 100, 100, step=1, label=label, elem_id="history-time", interactive=True)
            self.moment = gr.HTML(empty_html(NO_SAMPLES), elem_id="history-view", js_on_load=None)
        gr.Markdown("### Log")
        self.log = gr.HTML(log_html(()), elem_id="log-tail", js_on_load=None, autoscroll=True, max_height=340)
        self.zoom.change(self.show_loss, self.zoom, self.loss, preprocess=False, **QUIET)
        moved, chosen = [self.prompt.change, self.time.change], [self.prompt, self.time]
        gr.on(moved, self.show_moment, chosen, self.moment, trigger_mode="always_last", preprocess=False, **QUIET)

    @property
    def outputs(self) -> list[Any]:
        """What `updates` may change."""
        return [self.figures, self.memory, self.loss, self.gallery, self.prompt, self.moment, self.log]

    @property
    def inputs(self) -> list[Any]:
        """The controls of a `View`."""
        return [self.zoom, self.prompt, self.time]

    def seen_with(self, shown: RunSnapshot, view: View) -> Mapping[str, object]:
        """What an updated page shows of the run.

        The view is part of it: an answer that was on its way while the view changed is corrected by the next one.
        """
        seen: dict[str, object] = {str(section): revision for section, revision in shown.revisions.items()}
        seen |= {"state": shown.state, "elsewhere": shown.elsewhere}
        return {**seen, "zoom": view.zoom, "time": view.time, "prompt": _followed(shown, view.prompt)}

    def updates(self, shown: RunSnapshot, page: PageState, view: View) -> Updates:
        """Updates for everything that the page shows outdated."""
        updates: Updates = {}
        if page.is_outdated("status", shown):
            updates[self.figures] = figures_html(shown)
        if page.is_outdated("memory", shown):
            updates[self.memory] = memory_html(shown.memory, shown.peaks)
        if page.is_outdated("loss", shown) or page.seen.get("zoom") != view.zoom:
            updates[self.loss] = _loss(shown, view.zoom)
        if page.is_outdated("samples", shown):
            updates |= self._samples(shown, view)
        elif (page.seen.get("prompt"), page.seen.get("time")) != (_followed(shown, view.prompt), view.time):
            updates[self.moment] = self._moment(shown, view.prompt, view.time)
        if page.is_outdated("log", shown):
            updates[self.log] = log_html(shown.log[-LOG_LINES:], hide=self._hide)
        return updates

    def show_loss(self, zoom: object) -> str:
        """The loss of a part of the run."""
        return _loss(self._service.snapshot(), View.of(zoom, None, 0).zoom)

    def show_moment(self, prompt: object, time: object) -> str:
        """One sample of a prompt."""
        view = View.of(WHOLE_RUN, prompt, time)
        return self._moment(self._service.snapshot(), view.prompt, view.time)

    def _samples(self, shown: RunSnapshot, view: View) -> Updates:
        self._copies.keep_only(str(shown.run_dir))
        tiles = [self._tile(sample) for sample in reversed(shown.samples[-MAX_SHOWN:])]
        gallery = empty_html(NO_SAMPLES)
        if tiles:
            gallery = list_html(tiles, "ed-grid")
        followed = _followed(shown, view.prompt)
        choice: dict[str, Any] = {"choices": _prompts(shown)}
        if followed != view.prompt:  # otherwise a prompt chosen in the meantime would be reset
            choice["value"] = followed
        moment = self._moment(shown, followed, view.time)
        return {self.gallery: gallery, self.prompt: gr.update(**choice), self.moment: moment}

    def _tile(self, shown: ShownSample) -> str:
        sample = shown.sample
        address = self._copies.address(sample.path)
        when = "before training"
        if shown.step:
            when = f"step {shown.step:,}"
        cfgs = ", ".join(f"{cfg:g}" for cfg in sample.cfgs)
        text = f"{when}: {sample.prompt}"
        return (
            f'<a href="{address}" target="_blank" rel="noopener"><img src="{address}" alt="{escape(text)}" '
            f'loading="lazy"></a><div class="ed-caption"><strong>{when}</strong>'
            f'<p class="ed-text" title="{escape(sample.prompt)}">{escape(sample.prompt)}</p>'
            f"<small>CFG {cfgs} · seed {sample.seed} · {sample.size[0]} x {sample.size[1]}</small></div>"
        )

    def _moment(self, shown: RunSnapshot, prompt: str | None, time: float) -> str:
        """One sample of a prompt: at 0 the first, at 100 the latest."""
        samples = [one for one in shown.samples if one.sample.prompt == prompt]
        if not samples:
            return empty_html(NO_SAMPLES)
        place = round((len(samples) - 1) * min(100, max(0, time or 0)) / 100)
        tile = list_html([self._tile(samples[place])], "ed-grid ed-view")
        return tile + note_html(f"{place + 1} of {len(samples)}")


def _loss(shown: RunSnapshot, zoom: str) -> str:
    return loss_html(shown.curve, shown.validation, ZOOMS[zoom])


def _prompts(shown: RunSnapshot) -> list[str]:
    return list(dict.fromkeys(one.sample.prompt for one in shown.samples))


def _followed(shown: RunSnapshot, prompt: str | None) -> str | None:
    """The prompt to follow: the chosen one if the run has it, else its first."""
    prompts = _prompts(shown)
    return prompt if prompt in prompts else next(iter(prompts), None)
