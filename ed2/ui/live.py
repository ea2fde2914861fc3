"""The live view of a run, the same in the tab Train and on the monitor page: figures, memory, loss, samples, log."""

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import gradio as gr

from ed2.app.service import TrainerService
from ed2.app.snapshot import RunSnapshot, Section, ShownSample
from ed2.ui.hiding import Hide
from ed2.ui.html import ZOOMS, empty_html, figures_html, from_program, log_html, loss_html, memory_html
from ed2.ui.shelf import Shelf
from ed2.ui.wiring import QUIET

MAX_SHOWN = 60
LOG_LINES = 120
Seen = Mapping[str, object]
"""What a page shows already: the number of each section, and the state. Small, since one is kept for every page."""


class LivePanel:
    """Components that follow the run; to be made inside a `gr.Blocks`."""

    def __init__(self, service: TrainerService, shelf: Shelf, *, hide: Hide = from_program) -> None:
        self._service, self._shelf, self._hide = service, shelf, hide
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.figures = gr.HTML(figures_html(RunSnapshot()), js_on_load=None)
            with gr.Column(scale=2, min_width=300):
                self.memory = gr.HTML(memory_html(None), elem_id="memory-card", js_on_load=None)
        with gr.Row(elem_classes="ed-heading"):
            gr.Markdown("### Loss")
            self.zoom = gr.Radio(list(ZOOMS), value="Whole run", label="Part of the run that is shown",
                                 show_label=False, container=False, elem_id="loss-zoom")  # fmt: skip
        self.loss = gr.HTML(loss_html(()), elem_id="loss-chart", js_on_load=None)
        gr.Markdown("### Samples, newest first")
        self.gallery = gr.HTML(empty_html(NO_SAMPLES), elem_id="samples-gallery", js_on_load=None)
        with gr.Accordion("One prompt over time", open=False):
            self.prompt = gr.Dropdown([], label="Prompt", elem_id="history-prompt", interactive=True)
            self.time = gr.Slider(0, 100, 100, step=1, label="From the first sample (0) to the last (100)",
                                  elem_id="history-time", interactive=True)  # fmt: skip
            self.view = gr.HTML(empty_html(NO_SAMPLES), elem_id="history-view", js_on_load=None)
        gr.Markdown("### Log")
        self.log = gr.HTML(log_html(()), elem_id="log-tail", js_on_load=None, autoscroll=True, max_height=340)
        self.zoom.change(self._zoomed, self.zoom, self.loss, **QUIET)
        gr.on([self.prompt.change, self.time.change], self._moment, [self.prompt, self.time], self.view,
              trigger_mode="always_last", **QUIET)  # fmt: skip

    @property
    def outputs(self) -> list[Any]:
        """What `updates` gives values for."""
        return [self.figures, self.memory, self.loss, self.gallery, self.prompt, self.view, self.log]

    @property
    def inputs(self) -> list[Any]:
        """What `updates` wants to know of the page beside its snapshot."""
        return [self.zoom, self.prompt, self.time]

    def seen_now(self, shown: RunSnapshot, inputs: list[Any]) -> Seen:
        """What a page that was brought up to date shows, also by its own zoom, prompt and moment.

        With these an answer that was asked for before they were changed is mended by the next one.
        """
        zoom, prompt, time = inputs
        return {**seen_now(shown), "zoom": zoom, "prompt": _chosen(shown, prompt), "time": time}

    def updates(self, shown: RunSnapshot, seen: Seen, inputs: list[Any]) -> list[Any]:
        """A value for each output; what was not changed is left alone."""
        is_new, now = changed(shown, seen), self.seen_now(shown, inputs)
        zoom, prompt, time = inputs
        made: list[Any] = [gr.skip()] * len(self.outputs)
        if is_new("status"):
            made[0] = figures_html(shown)
        if is_new("memory"):
            made[1] = memory_html(shown.memory, shown.peaks)
        if is_new("loss") or seen.get("zoom") != zoom:
            made[2] = loss_html(shown.curve, shown.validation, ZOOMS[zoom])
        if is_new("samples"):
            made[3:6] = self._samples(shown, prompt, time)
        elif (seen.get("prompt"), seen.get("time")) != (now["prompt"], time):
            made[5] = self._moment(prompt, time)
        if is_new("log"):
            made[6] = log_html(shown.log[-LOG_LINES:], hide=self._hide)
        return made

    def _zoomed(self, zoom: str) -> str:
        shown = self._service.snapshot()
        return loss_html(shown.curve, shown.validation, ZOOMS[zoom])

    def _samples(self, shown: RunSnapshot, prompt: str | None, time: float) -> list[Any]:
        self._shelf.hold(str(shown.run_dir))
        tiles = [self._tile(sample) for sample in reversed(shown.samples[-MAX_SHOWN:])]
        grid = f'<ul class="ed-grid">{"".join(tiles)}</ul>' if tiles else empty_html(NO_SAMPLES)
        prompts, chosen = _prompts(shown), _chosen(shown, prompt)
        choice = {} if chosen == prompt else {"value": chosen}  # what is chosen meanwhile stays
        return [grid, gr.update(choices=prompts, **choice), self._moment_of(shown, chosen, time)]

    def _tile(self, shown: ShownSample) -> str:
        sample = shown.sample
        address = self._shelf.address(sample.path)
        when = "before training" if shown.step == 0 else f"step {shown.step:,}"
        cfgs = ", ".join(f"{cfg:g}" for cfg in sample.cfgs)
        text = f"{when}: {sample.prompt}"
        return (
            f'<li><a href="{address}" target="_blank" rel="noopener"><img src="{address}" alt="{escape(text)}" '
            f'loading="lazy"></a><div class="ed-caption"><strong>{when}</strong>'
            f'<p class="ed-text" title="{escape(sample.prompt)}">{escape(sample.prompt)}</p>'
            f"<small>CFG {cfgs} · seed {sample.seed} · {sample.size[0]} x {sample.size[1]}</small></div></li>"
        )

    def _moment(self, prompt: str | None, time: float) -> str:
        return self._moment_of(self._service.snapshot(), prompt, time)

    def _moment_of(self, shown: RunSnapshot, prompt: str | None, time: float) -> str:
        """One image of a prompt: at 0 the first, at 100 the last."""
        samples = [s for s in shown.samples if s.sample.prompt == prompt]
        if not samples:
            return empty_html(NO_SAMPLES)
        place = round((len(samples) - 1) * min(100.0, max(0.0, float(time or 0))) / 100)
        counted = f"{place + 1} of {len(samples)}"
        return f'<ul class="ed-grid ed-view">{self._tile(samples[place])}</ul><p class="ed-note">{counted}</p>'


NO_SAMPLES = "Samples appear here: before the first step, then as often as the tab Sampling says."


def _prompts(shown: RunSnapshot) -> list[str]:
    return list(dict.fromkeys(s.sample.prompt for s in shown.samples))


def _chosen(shown: RunSnapshot, prompt: str | None) -> str | None:
    """The prompt to follow: the one that is chosen, where the run has it, or the first."""
    prompts = _prompts(shown)
    return prompt if prompt in prompts else (prompts[0] if prompts else None)


def seen_now(shown: RunSnapshot) -> Seen:
    """What a page that was brought up to date shows."""
    return {
        **{str(name): number for name, number in shown.revisions.items()},
        "state": shown.state,
        "elsewhere": shown.elsewhere,
    }


def changed(shown: RunSnapshot, seen: Seen) -> Callable[[Section], bool]:
    """Tells which sections a page has not seen yet; a new page has seen none."""
    return lambda section: not seen or seen.get(section) != shown.revisions.get(section)
