"""What presets, pasted settings and a reset do to a form that a person has begun to fill."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import pytest

from ed2.app.user_files import UserFiles
from ed2.errors import SettingsError
from ed2.ui.command import _parser, context_of
from ed2.ui.context import Context
from ed2.ui.form import Form, defaults
from ed2.ui.sampling_tab import SamplingTab
from ed2.ui.settings_tab import IN_STRIP, SettingsTab

CARD, OTHER_CARD, DEMO = "SD 1.5 on a card with 12 GB", "SD 2.1 at 768 on a card with 24 GB", "Demo"
HUB = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@dataclass
class Filled:
    """A form by the names of its settings, as a person sees it."""

    form: Form
    tab: SettingsTab
    texts: dict[str, object]

    def load(self, title: str) -> None:
        title = next(name for name in self.tab._context.user.presets() if name.startswith(title))
        self.take(self.tab._load(title, *self.texts.values()))

    def take(self, answer: list[object]) -> None:
        shown = dict(zip(self.form.controls, answer, strict=True))
        self.texts |= {name: text for name, text in shown.items() if not isinstance(text, dict)}

    def of(self, names: Mapping[str, object]) -> dict[str, object]:
        return {name: self.texts[name] for name in names}


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    given = context_of(_parser().parse_args(["--logdir", str(tmp_path / "runs")]))
    context = Context(user=UserFiles(tmp_path / "user"), begin=given.begin)
    with gr.Blocks():
        form = Form(context.form_values())
        tab = SettingsTab(context, form)
        SamplingTab(context, form)
        form.add(["data_root"])
    return Filled(form, tab, {name: control.value for name, control in form.controls.items()})


def test_a_preset_leaves_what_a_person_chose_for_the_run(filled: Filled, tmp_path: Path) -> None:
    chosen = {"data_root": "/images/cats", "resume_ckpt": "/models/sd15.safetensors", "project_name": "cats",
              "sample_prompts": "/images/prompts.txt", "save_ckpt_dir": "/webui/models"}  # fmt: skip
    filled.texts |= chosen
    filled.texts["lr"] = "0.5"
    filled.load(CARD)
    runs = {"logdir": str(tmp_path / "runs")}
    assert filled.of(chosen | runs) == chosen | runs
    assert filled.of({"batch_size": 0, "lr": 0}) == {"batch_size": 6, "lr": "1e-06"}
    assert "as in this preset" in filled.tab._difference_html(filled.form.values_of(list(filled.texts.values())), CARD)
    filled.load(DEMO)  # which names its own
    assert filled.of({"data_root": 0, "project_name": 0}) == {"data_root": "ed2/demo/pictures", "project_name": "demo"}
    assert filled.of(runs) == runs


def test_the_base_that_a_preset_suggests_gives_way_to_one_that_was_chosen(filled: Filled) -> None:
    filled.load(CARD)
    assert filled.texts["resume_ckpt"] == HUB
    for title, base in ((OTHER_CARD, "stabilityai/stable-diffusion-2-1"), (DEMO, "ed2/demo/base"), (CARD, HUB)):
        filled.load(title)
        assert filled.texts["resume_ckpt"] == base


def test_a_preset_of_ones_own_holds_what_differs_and_brings_its_base_back(filled: Filled, tmp_path: Path) -> None:
    filled.texts |= {"resume_ckpt": str(tmp_path), "logdir": "logs", "max_epochs": 7}
    filled.tab._keep(None, "mine", *filled.texts.values())
    kept = json.loads((tmp_path / "user/presets/mine.json").read_text())
    assert kept == {"resume_ckpt": str(tmp_path), "max_epochs": 7}
    filled.texts |= {"resume_ckpt": "/models/other", "max_epochs": 1}
    filled.load("My preset: mine")
    assert filled.of(kept) == kept


def test_pasted_settings_set_what_they_name_and_leave_the_persons_own(filled: Filled) -> None:
    filled.texts |= {"data_root": "/images/cats", "batch_size": 9, "project_name": "cats"}
    filled.take(filled.tab._apply('{"max_epochs": 12, "project_name": "dogs"}')[:-1])
    wanted = {"data_root": "/images/cats", "max_epochs": 12, "project_name": "dogs", "batch_size": 2}
    assert filled.of(wanted) == wanted


def test_a_reset_keeps_the_folder_of_runs_that_the_command_line_names(filled: Filled, tmp_path: Path) -> None:
    filled.texts |= {"project_name": "cats", "logdir": "elsewhere"}
    filled.take(filled.form.shown(filled.tab._at_first()))
    assert filled.of({"project_name": 0, "logdir": 0}) == {
        "project_name": defaults()["project_name"], "logdir": str(tmp_path / "runs"),
    }  # fmt: skip


def test_the_table_of_prompts_follows_the_file_that_is_set_and_keeps_what_is_typed(tmp_path: Path) -> None:
    with gr.Blocks():
        context = Context(user=UserFiles(tmp_path / "user"))
        sampling = SamplingTab(context, Form(context.form_values()))
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n")
    rows, _, steps, shown = sampling.opened(f" {file} ", "other.txt")
    assert (rows[0][0], steps, shown) == ("a cat", 30, str(file))
    assert all(isinstance(answer, dict) for answer in sampling.opened(str(file), shown)), "left alone: it is shown"
    rows, *_, shown = sampling.opened(str(tmp_path / "none.txt"), shown)
    assert (rows[0][0], shown) == ("", str(tmp_path / "none.txt")), "not the prompts of the file before"
    saved, shown = sampling._save([["a dog", "", "", "", "", ""]], "", 30)
    assert all(isinstance(answer, dict) for answer in sampling.opened(saved, shown))


def test_what_is_wrong_is_listed_once(filled: Filled) -> None:
    values = {**defaults(), "batch_size": 0, "lr": "fast"}
    before = filled.tab._forecast_html(values, 0)[0]
    assert "(batch_size)" in before and "(lr)" in before
    service = filled.tab._context.service
    with pytest.raises(SettingsError):
        filled.tab._context.start(values)
    assert {"batch_size", "lr"} <= {problem.path for problem in service.snapshot().problems}
    assert filled.tab._forecast_html(values, 0)[0] == f'<p class="ed-note">{IN_STRIP}</p>'
    told = filled.tab._forecast_html({**values, "project_name": "../evil"}, 0)[0]
    assert "(project_name)" in told and "(batch_size)" not in told


def test_the_newest_form_of_a_page_is_kept_in_whatever_order_they_arrive(tmp_path: Path) -> None:
    context = Context(user=UserFiles(tmp_path / "user"))

    def kept(turn: str, name: str) -> object:
        is_newest = context.keep_form({"project_name": name}, turn)
        assert is_newest == (context.form_values() == {"project_name": name})
        assert context.user.draft() == context.form_values()
        return context.form_values()["project_name"]

    assert kept("1700000000000.5 000000002", "second") == "second"
    assert kept("1700000000000.5 000000001", "first") == "second"
    assert kept("1600000000000.5 000000001", "of a page with a clock that is slow") != "second"


def test_a_page_that_was_open_before_changes_only_what_is_changed_on_it(tmp_path: Path) -> None:
    context = Context(user=UserFiles(tmp_path / "user"))
    old = {"project_name": "demo", "lr": 1e-6}
    for page in ("1", "2"):
        context.opened(page, old)
    assert context.keep_form({**old, "project_name": "cats"}, "1 000000001")
    assert context.keep_form(old, "2 000000001"), "a press on Check tells the form too"
    assert context.form_values()["project_name"] == "cats"
    assert context.keep_form({**old, "lr": 2e-6}, "2 000000002")
    assert context.user.draft() == {"project_name": "cats", "lr": 2e-6}
    assert context.keep_form({**old, "project_name": "dogs", "lr": 2e-6}, "2 000000003")
    assert context.form_values()["project_name"] == "dogs"
