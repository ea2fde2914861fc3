"""The owner's page, and its question whether a run of one's own begins with the demo's settings."""

import contextlib
from typing import Any

import gradio as gr
from gradio.events import Dependency

from ed2.ui.context import Context
from ed2.ui.dataset_tab import DatasetTab
from ed2.ui.form import Form, defaults
from ed2.ui.html import note_html
from ed2.ui.live import ASK, Held, LiveData
from ed2.ui.page_state import PageState
from ed2.ui.resume_tab import ResumeTab
from ed2.ui.sampling_tab import SamplingTab
from ed2.ui.settings_tab import SettingsTab
from ed2.ui.settings_view import catalog_html
from ed2.ui.start_screen import TITLE, StartScreen
from ed2.ui.strip import Strip
from ed2.ui.train_tab import TrainTab
from ed2.ui.wiring import QUIET, TICK, Updates, Values, fill, never_raising

TICK_SECONDS = 1.0
QUESTION = (
    "You trained the demo before. Its settings suit a tiny model, so this run begins with fresh ones. Use the demo's "
    "settings instead?"
)
NAMES = ("project_name", "sample_prompts")
"""What the demo names that another run should not keep."""


class OwnerPage:
    """The whole page: its name, the strip, the first screen and five tabs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.form = form = Form(context.form_values())
        with gr.Blocks(title="EveryDream trainer", analytics_enabled=False, fill_width=True) as self.blocks:
            gr.HTML(TITLE, elem_id="title", js_on_load="ed.watchLinks(element)")
            # Outside of the tabs: any of them may be the first that is opened, and shows options beside its settings.
            gr.HTML(catalog_html(), visible="hidden", js_on_load="ed.settings.begin(element)")
            self.strip = Strip(context)
            live = LiveData(context.samples, is_owner=True, trained=context.trained_in)
            self.question = DemoQuestion(context, form)
            with gr.Tabs(selected=self._first_tab(), elem_id="tabs", overflow_behavior="wrap") as self.tabs:
                with gr.Tab("Start", id="start", elem_id="tab-start"):
                    self.start = StartScreen(context, form)
                with gr.Tab("Dataset", id="dataset", elem_id="tab-dataset"):
                    self.question.add("dataset")
                    self.dataset = DatasetTab(context, form)
                with gr.Tab("Settings", id="settings", elem_id="tab-settings"):
                    self.question.add("settings")
                    self.settings = SettingsTab(context, form)
                with gr.Tab("Sampling", id="sampling", elem_id="tab-sampling"):
                    self.sampling = SamplingTab(context, form)
                with gr.Tab("Resume", id="resume", elem_id="tab-resume") as self.resume_tab:
                    self.resume = ResumeTab(context)
                with gr.Tab("Train", id="train", elem_id="tab-train") as train_tab:
                    self.train = TrainTab(context, live, self.resume.page.work)
                train_tab.select(None, None, None, js="() => window.scrollTo({ top: 0 })")  # Resume is far down its tab
            self._wire()

    def _first_tab(self) -> str:
        if self._context.service.snapshot().is_active:
            return "train"
        return "start" if self._context.is_first_time else "dataset"

    def _wire(self) -> None:
        self.strip.wire(self.form, self.tabs, self.sampling)
        self.dataset.wire()
        self.settings.wire()
        self.sampling.wire(self.settings.filled)
        self.resume.wire(self.form, self.strip, self.tabs, self.resume_tab, self.sampling)
        self.train.wire(self.form, self.tabs, self.strip.problems, self.resume.lora, self.resume.resume_run)
        outputs = [*self.form.inputs, self.tabs, self.settings.presets.choice, self.settings.memory.card]
        outputs += [*self.dataset.opened_outputs, *self.sampling.outputs]
        opened = self.blocks.load(self.open, None, outputs, js="ed.lockForm", **QUIET)
        opened.failure(None, None, None, js="ed.unlockForm")
        filled = opened.success(None, None, None, js="ed.formFilled")
        self.dataset.show_after(filled)
        self.dataset.grid.follow(self.strip.starter.saved)
        first = self.start.wire(self.strip.starter, self.strip.problems, self.tabs)
        changed = [*self.resume.queued, *first, *self.question.wire(), *self.strip.started]
        for event in (
            filled,
            *self.dataset.checks,
            self.resume.used,
            self.resume.page.pressed,
            self.train.validated,
            self.train.continued,
            *changed,
        ):
            self.settings.follow(event.then)
        self._keep_up_to_date(filled)

    def _keep_up_to_date(self, filled: Dependency) -> None:
        """Show the whole run once the form is filled, then update what changes."""
        panel = self.train.panel
        timer = gr.Timer(TICK_SECONDS, active=False)
        outputs = [*self.strip.outputs, *self.train.outputs, *self.resume.outputs, *panel.outputs]
        outputs += [*self.start.outputs, *self.question.outputs, *self.resume.queue.outputs]
        tick = never_raising(self.tick)
        panel.ask_when_seen(tick, outputs)
        timer.tick(tick, panel.inputs, outputs, js=ASK, **TICK).success(None, None, None, js="ed.answered")
        first = filled.then(tick, panel.inputs, outputs, js=ASK, **TICK)
        first.then(None, None, None, js="ed.unlockForm")
        started = first.then(lambda: gr.Timer(active=True), None, timer, **TICK)
        started.then(None, None, None, js="ed.watchProgram")

    def open(self, request: gr.Request) -> Updates:
        """Fill a newly opened page with the last form and the last check."""
        values = {**defaults(), **self._context.form_values()}
        filled = self.form.show(values)
        page = self._context.pages.of(request)
        page.form = self.form.read(filled)
        updates = {**filled, self.settings.presets.choice: self.settings.presets.choices(), **self.dataset.opened()}
        updates |= self.settings.memory.opened(page)
        updates |= self.sampling.prompts_of(page, values.get("sample_prompts"))
        updates[self.tabs] = gr.Tabs(selected=self._first_tab())
        return updates

    def tick(self, request: gr.Request, held: object) -> Updates:
        """What has changed since the last update of the page."""
        page, panel = self._context.pages.of(request), self.train.panel
        shown = self._context.service.snapshot()
        missing = self._context.missing()
        now = {**panel.seen_with(shown), "missing": missing, "demo": self.question.seen()}
        now["work"] = self.train.model.seen()
        now["start"] = self.start.seen_with(missing, page)
        now["queue"], now["unsaved"] = self.resume.queue.seen(missing), self.strip.seen()
        updates = panel.data.updates(shown, Held.of(held))
        if page.seen == now:
            return updates or gr.skip()
        updates |= self.strip.updates(shown, page, now) | self.question.updates(page, now["demo"])
        updates |= self.start.updates(shown, page, now) | self.resume.queue.updates(page, now["queue"])
        for part in (self.train, self.resume):
            updates |= part.updates(shown, page)
        updates |= panel.updates(shown, page)
        page.seen = now
        return updates or gr.skip()

    def close(self) -> None:
        """Stop what the page has started, then close the page."""
        self.train.tensorboard.close()
        self.resume.test.tester.close()
        self.resume.lora.extractor.close()
        self.resume.page.work.close()
        self.settings.models.downloads.downloader.close()
        self.dataset.captions.download.downloader.close()
        self.dataset.captions.captioner.close()
        self._context.desk.close()
        self.blocks.close(verbose=False)


class DemoQuestion:
    """The question, once in each tab that it is asked in; the demo's settings reach no other run before a yes."""

    def __init__(self, context: Context, form: Form) -> None:
        self._context, self._form = context, form
        self._rows: list[Any] = []
        self._yes: list[Any] = []
        self._no: list[Any] = []

    def add(self, name: str) -> None:
        """Make it here; the name of the tab ends its ids."""
        with gr.Row(visible=False, elem_id=f"demo-question-{name}", elem_classes="ed-actions ed-asked") as row:
            gr.HTML(note_html(QUESTION), js_on_load=None)
            self._yes.append(gr.Button("Use the demo's settings", elem_id=f"demo-settings-{name}", min_width=180))
            self._no.append(gr.Button("Keep fresh settings", elem_id=f"fresh-settings-{name}", min_width=160))
        self._rows.append(row)

    @property
    def outputs(self) -> list[Any]:
        """What `updates` may change."""
        return self._rows

    def seen(self) -> bool:
        """Whether it is asked now."""
        return self._context.demo_settings.asks_about(self._context.form_values())

    def updates(self, page: PageState, is_asked: object) -> Updates:
        """Show or hide it."""
        if page.seen.get("demo") == is_asked:
            return {}
        return {row: gr.update(visible=bool(is_asked)) for row in self._rows}

    def wire(self) -> list[Any]:
        """Connect the buttons, once every control of the form is made.

        Returns:
            The events that change the form.
        """
        inputs, rows = self._form.inputs, self._rows
        events = [fill(button.click, self.use_demo, inputs, inputs, rows, **QUIET) for button in self._yes]
        for button in self._no:
            button.click(self.keep_fresh, None, rows, **QUIET)
        changes = [self._form.controls[name].change for name in ("data_root", "resume_ckpt")]

        def change(*given: Any, **how: Any) -> Any:
            return gr.on(changes, *given, trigger_mode="always_last", **how)

        return [*events, fill(change, self.stop_leak, inputs, inputs, **QUIET)]

    def use_demo(self, _: gr.Request, __: Values) -> Updates:
        """Put the demo's settings into the form, but not what belongs to its run."""
        return {**self._form.show(self._context.demo_settings.tuned), **self._answer(is_wanted=True)}

    def keep_fresh(self) -> Updates:
        """Ask no more."""
        return self._answer(is_wanted=False)

    def _answer(self, *, is_wanted: bool) -> Updates:
        with contextlib.suppress(OSError):
            self._context.demo_settings.answered(is_wanted=is_wanted)
        return {row: gr.update(visible=False) for row in self._rows}

    def stop_leak(self, _: gr.Request, held: Values) -> Updates:
        """Fresh settings where a form that held the demo's names other images or another base now."""
        demo, values = self._context.demo_settings, self._form.read(held)
        if not demo.leaked_into(values):
            return {}
        with contextlib.suppress(OSError):
            demo.trained()
        names = [*demo.tuned, *(name for name in NAMES if values.get(name) == demo.named.get(name))]
        fresh = defaults()
        return self._form.show({name: fresh[name] for name in names})
