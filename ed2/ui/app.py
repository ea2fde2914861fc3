"""The owner's page, put together."""

from typing import Any

import gradio as gr

from ed2.ui.context import Context
from ed2.ui.dataset_tab import DatasetTab
from ed2.ui.form import Form, defaults
from ed2.ui.live import Seen
from ed2.ui.resume_tab import ResumeTab
from ed2.ui.sampling_tab import SamplingTab
from ed2.ui.settings_tab import SettingsTab
from ed2.ui.strip import Strip
from ed2.ui.train_tab import TrainTab
from ed2.ui.wiring import QUIET, TICK, never_raising

TICK_SECONDS = 1.0
ANSWERED = "() => { window.edAnswered = Date.now(); }"
HOLD = "() => { document.getElementById('tabs').inert = true; return [String(performance.timeOrigin)]; }"
LET = "() => { document.getElementById('tabs').inert = false; }"
"""Until the form is filled nobody can type in it: that would be overwritten."""
WATCH = """() => { window.edAnswered = Date.now(); setInterval(() => {
  if (document.hidden) window.edAnswered = Date.now();
  document.getElementById('strip').classList.toggle('ed-gone', Date.now() - window.edAnswered > 12000);
}, 2000); }"""
"""Says in the strip that the program is gone: without it the last answer would stand for ever. Asks nobody."""


def owner_page(context: Context) -> gr.Blocks:
    """The whole page: the strip, and five tabs."""
    form = Form(context.form_values())
    with gr.Blocks(title="EveryDream trainer", analytics_enabled=False, fill_width=True) as page:
        strip = Strip(context)
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as tabs:
            with gr.Tab("Dataset", id="dataset", elem_id="tab-dataset"):
                dataset = DatasetTab(context, form)
            with gr.Tab("Settings", id="settings", elem_id="tab-settings"):
                settings = SettingsTab(context, form)
            with gr.Tab("Sampling", id="sampling", elem_id="tab-sampling"):
                sampling = SamplingTab(context, form)
            with gr.Tab("Resume", id="resume", elem_id="tab-resume") as resume_tab:
                resume = ResumeTab(context)
            with gr.Tab("Train", id="train", elem_id="tab-train"):
                train = TrainTab(context)
        ready = gr.State(False)
        strip.wire(form, tabs)
        dataset.wire()
        settings.wire(ready)
        sampling.wire(settings.filled)
        resume.wire(form, strip, tabs, resume_tab)
        train.wire(form)

        def opened(name: str) -> list[Any]:
            selected = gr.Tabs(selected="train") if context.service.snapshot().is_active else gr.skip()
            values = {**defaults(), **context.form_values()}
            filled = form.shown(values)
            context.opened(name, form.values_of(filled))
            return [*filled, selected, True, settings.presets(), *dataset.opened(),
                    *sampling.opened(values.get("sample_prompts"))]  # fmt: skip

        filled = [*form.inputs, tabs, ready, settings.preset, *dataset.opened_outputs, *sampling.opened_outputs]
        shown = page.load(opened, gr.Textbox(visible=False), filled, js=HOLD, **QUIET)
        dataset.show_after(shown)
        for event in (shown, dataset.checked, resume.used, strip.begun):
            settings.tell(event.then)
        _follow(shown, context, strip, train, resume)
    page.on_close = lambda: [end() for end in (train.tensorboard.close, resume.test.tester.close)]
    return page


def _follow(opened: Any, context: Context, strip: Strip, train: TrainTab, resume: ResumeTab) -> None:
    """Keep the page up to date: all of it once its form is filled, so that nobody types sooner, then what changes."""
    for event in (opened.success, opened.failure):
        event(None, None, None, js=LET)
    panel = train.panel
    seen = gr.State({})
    timer = gr.Timer(TICK_SECONDS, active=False)
    outputs = [seen, *strip.outputs, *train.outputs, *resume.outputs, *panel.outputs]

    def tick(before: Seen, *inputs: Any) -> list[Any]:
        shown = context.service.snapshot()
        now = panel.seen_now(shown, list(inputs))
        if before == now:
            return [gr.skip()] * len(outputs)
        live = panel.updates(shown, before, list(inputs))
        parts = (strip, train, resume)
        return [now, *(update for part in parts for update in part.updates(shown, before)), *live]

    careful = never_raising(tick, len(outputs))
    ticked = timer.tick(careful, [seen, *panel.inputs], outputs, **TICK)
    ticked.success(None, None, None, js=ANSWERED)
    first = opened.then(lambda *inputs: careful({}, *inputs), panel.inputs, outputs, **TICK)
    begun = first.then(lambda: gr.Timer(active=True), None, timer, **TICK)
    begun.then(None, None, None, js=WATCH)
