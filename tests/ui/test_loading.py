"""What presets, pasted settings and a reset do to a form that a person has begun to fill."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import pytest

from ed2.app.user_files import UserFiles
from ed2.errors import SettingsError
from ed2.ui.app import OwnerPage
from ed2.ui.command import build_parser, context_of
from ed2.ui.context import Context
from ed2.ui.form import Form, defaults
from ed2.ui.memory_panel import LISTED_IN_STRIP
from ed2.ui.page_state import PageState
from ed2.ui.sampling_tab import UNSAVED_HTML, SamplingTab
from ed2.ui.settings_tab import SettingsTab
from ed2.ui.settings_view import FormFacts
from ed2.ui.wiring import Updates, Values

CARD, OTHER_CARD, DEMO = "SD 1.5 on a 12 GB card", "SD 2.1 at 768 on a 24 GB card", "Demo"
HUB = "stable-diffusion-v1-5/stable-diffusion-v1-5"
REQUEST = gr.Request(session_hash="1")


@dataclass
class Filled:
    """A form by the names of its settings, as a person sees it."""

    context: Context
    form: Form
    tab: SettingsTab
    texts: dict[str, object]

    def held(self, **others: object) -> Values:
        """What the controls hold: those of the form, and others of the Settings tab by their names here."""
        presets = self.tab.presets
        named = {"preset": presets.choice, "name": presets.name, "answer": presets.go_on, "json": self.tab.raw}
        form = {control: self.texts[name] for name, control in self.form.controls.items()}
        return {**form, self.tab.memory.card: 24, **{named[name]: value for name, value in others.items()}}

    def title_of(self, start: str) -> str:
        return next(name for name in self.context.user.presets() if name.startswith(start))

    def load(self, start: str) -> None:
        title = self.title_of(start)
        self.take(self.tab.presets.load_preset(REQUEST, self.held(preset=title)))

    def take(self, updates: Updates) -> None:
        self.texts |= {name: updates[control] for name, control in self.form.controls.items() if control in updates}

    def of(self, names: Mapping[str, object]) -> dict[str, object]:
        return {name: self.texts[name] for name in names}


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    given = context_of(build_parser().parse_args(["--logdir", str(tmp_path / "runs")]))
    context = Context(user=UserFiles(tmp_path / "user"), begin=given.begin)
    page = OwnerPage(context)
    texts = {name: control.value for name, control in page.form.controls.items()}
    return Filled(context, page.form, page.settings, texts)


def test_a_preset_keeps_what_the_user_chose_for_the_run(filled: Filled, tmp_path: Path) -> None:
    chosen = {
        "data_root": "/images/cats",
        "resume_ckpt": "/models/sd15.safetensors",
        "project_name": "cats",
        "sample_prompts": "/images/prompts.txt",
        "save_ckpt_dir": "/webui/models",
    }
    filled.texts |= chosen
    filled.texts["lr"] = "0.5"
    filled.load(CARD)
    runs = {"logdir": str(tmp_path / "runs")}
    assert filled.of(chosen | runs) == chosen | runs
    assert filled.of({"batch_size": 0, "lr": 0}) == {"batch_size": 4, "lr": "1e-06"}
    assert "matches this preset" in filled.tab.presets.preview_html(
        filled.form.read(filled.held()), filled.title_of(CARD)
    )
    filled.load(DEMO)  # which names its own
    assert filled.of({"data_root": 0, "project_name": 0}) == {"data_root": "ed2/demo/pictures", "project_name": "demo"}
    assert filled.of(runs) == runs


def test_a_chosen_base_model_is_kept_over_the_one_that_a_preset_suggests(filled: Filled) -> None:
    filled.load(CARD)
    assert filled.texts["resume_ckpt"] == HUB
    for title, base in ((OTHER_CARD, "stabilityai/stable-diffusion-2-1"), (DEMO, "ed2/demo/base"), (CARD, HUB)):
        filled.load(title)
        assert filled.texts["resume_ckpt"] == base


def test_an_own_preset_contains_what_differs_and_restores_its_base_model(filled: Filled, tmp_path: Path) -> None:
    filled.texts |= {"resume_ckpt": str(tmp_path), "logdir": "logs", "max_epochs": 7}
    filled.tab.presets.ask_or_save(REQUEST, filled.held(name="mine"))
    kept = json.loads((tmp_path / "user/presets/mine.json").read_text())
    assert kept == {"resume_ckpt": str(tmp_path), "max_epochs": 7}
    filled.texts |= {"resume_ckpt": "/models/other", "max_epochs": 1}
    filled.load("My preset: mine")
    assert filled.of(kept) == kept


def test_pasted_settings_set_what_they_name_and_keep_what_belongs_to_the_run(filled: Filled) -> None:
    filled.texts |= {"data_root": "/images/cats", "batch_size": 9, "project_name": "cats"}
    filled.take(filled.tab.apply_json(REQUEST, filled.held(json='{"max_epochs": 12, "project_name": "dogs"}')))
    wanted = {"data_root": "/images/cats", "max_epochs": 12, "project_name": "dogs", "batch_size": 2}
    assert filled.of(wanted) == wanted


def test_a_reset_keeps_the_folders_and_the_base_model(filled: Filled) -> None:
    kept = {"data_root": "/images/cats", "resume_ckpt": "/models/x", "logdir": "elsewhere", "save_ckpt_dir": "/webui"}
    filled.texts |= {**kept, "project_name": "cats", "max_epochs": 7, "lora_rank": 99}
    filled.take(filled.tab.presets.reset_form(REQUEST, filled.held()))
    usual = {name: defaults()[name] for name in ("project_name", "max_epochs", "lora_rank")}
    assert filled.of({**kept, **usual}) == {**kept, **usual}


def test_an_own_preset_is_replaced_and_deleted_only_after_a_yes(filled: Filled) -> None:
    panel, own = filled.tab.presets, filled.context.user.own_presets
    panel.ask_or_save(REQUEST, filled.held(name="mine"))
    filled.texts["max_epochs"] = 9
    asked = panel.ask_or_save(REQUEST, filled.held(name="mine"))
    assert "Replace the preset “mine”" in asked[panel.text] and "max_epochs" not in own()["My preset: mine"].read_text()
    panel.replace_or_delete(REQUEST, filled.held(name="mine", answer="Replace"))
    assert json.loads(own()["My preset: mine"].read_text())["max_epochs"] == 9
    assert (
        panel.rename_own(REQUEST, filled.held(preset="My preset: mine", name="best"))[panel.choice]["value"]
        == "My preset: best"
    )
    assert "Delete the preset “best”" in panel.ask_to_delete("My preset: best")[panel.text] and own()
    assert (
        panel.replace_or_delete(REQUEST, filled.held(preset="My preset: best", answer="Delete"))[panel.choice]["value"]
        is None
    )
    assert not own()
    with pytest.raises(gr.Error, match="not one of your own"):
        panel.replace_or_delete(REQUEST, filled.held(preset=filled.title_of(DEMO), answer="Delete"))


def test_the_page_says_in_plain_words_why_a_preset_cannot_be_saved(filled: Filled, tmp_path: Path) -> None:
    (tmp_path / "user").mkdir(exist_ok=True)
    (tmp_path / "user/presets").write_text("a file in the place of the folder")
    with pytest.raises(gr.Error, match="The preset cannot be saved: ") as refused:
        filled.tab.presets.ask_or_save(REQUEST, filled.held(name="mine"))
    assert "Errno" not in str(refused.value)


def test_the_facts_of_a_form_follow_method_family_and_what_is_wrong(filled: Filled) -> None:
    def facts(**values: object) -> FormFacts:
        return filled.tab.facts({**defaults(), **values}, None, 0)

    usual = facts()
    assert {"lora_rank", "text_encoder_2_lr", "useadam8bit", "ema_device"} <= usual.hidden.keys()
    assert usual.changed == () and usual.problems == {}
    assert usual.notes["lr"] == "In use: 1e-06 for the UNet and 5e-07 for the text encoder."
    assert usual.notes["optimizer"].endswith("PU.")
    lora = facts(method="lora", model_family="sdxl", lr="fast", optimizer="adafactor")
    assert {"betas", "freeze_embeddings", "weights_dtype"} <= lora.hidden.keys()
    assert not {"lora_rank", "text_encoder_2_lr"} & lora.hidden.keys()
    assert set(lora.changed) == {"method", "model_family", "lr", "optimizer"} and "lr" in lora.problems
    assert lora.notes["optimizer"] == "In use: adafactor."
    assert "useadam8bit" not in facts(useadam8bit=True, optimizer="lion").hidden, "where the problem is"
    assert json.loads(lora.as_json())["hidden"]["ema_device"].startswith("the EMA is off without “EMA decay rate”")


def test_a_suggestion_follows_the_form_and_is_undone_while_the_form_has_it(filled: Filled) -> None:
    panel = filled.tab.memory

    def told() -> tuple[str, bool, bool]:
        updates = panel.updates(REQUEST, filled.form.read(filled.held()), 24)
        return updates[panel.answer], updates[panel.fit]["visible"], updates[panel.undo]["visible"]

    assert told()[1:] == (False, False)
    filled.texts["batch_size"] = 16
    answer, can_fit, can_undo = told()
    assert "Batch size 16 -&gt; 10" in answer and (can_fit, can_undo) == (True, False)
    filled.take(panel.make_fit(REQUEST, filled.held()))
    answer, can_fit, can_undo = told()
    assert "Batch size: 16 → 10" in answer and (can_fit, can_undo) == (False, True)
    filled.texts["max_epochs"] = 5
    assert told()[2]
    filled.take(panel.undo_fit(REQUEST, filled.held()))
    assert filled.texts["batch_size"] == 16 and told()[1:] == (True, False)


def a_table(sampling: SamplingTab, row: list[str]) -> Values:
    """A prompt and an empty row, as the controls hold them."""
    return {sampling.prompts: [row, [""] * len(row)], sampling.sampler: "", sampling.steps: 20}


def test_the_prompt_table_follows_the_file_that_is_set_and_keeps_what_is_typed(tmp_path: Path) -> None:
    context = Context(user=UserFiles(tmp_path / "user"))
    page = OwnerPage(context)
    sampling, state, path = page.sampling, context.pages.of(REQUEST), page.form.controls["sample_prompts"]
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n")
    shown = sampling.follow(REQUEST, {path: f" {file} "})
    assert (shown[sampling.prompts][0][0], shown[sampling.steps], state.prompt_file) == ("a cat", 20, str(file))
    assert sampling.follow(REQUEST, {path: str(file)}) == {}, "left alone: it is shown"
    shown = sampling.follow(REQUEST, {path: str(tmp_path / "none.txt")})
    assert shown[sampling.prompts][0][0] == "", "not the prompts of the file before"
    saved = sampling.save_prompts(REQUEST, a_table(sampling, ["a dog", "", "", "", "", ""]))
    assert sampling.follow(REQUEST, saved) == {}


def test_prompts_that_were_not_saved_are_shown_again_until_they_are_saved_or_the_file_is_reloaded(
    tmp_path: Path,
) -> None:
    page = OwnerPage(Context(user=UserFiles(tmp_path / "user")))
    sampling, file = page.sampling, tmp_path / "prompts.txt"
    file.write_text("a cat\n")
    path = page.form.controls["sample_prompts"]
    typed = {**a_table(sampling, ["a dog", "", "x", "", "", ""]), sampling.sampler: "euler", sampling.steps: 7}

    def loaded_anew(name: object) -> tuple[object, object, object, bool]:
        shown = sampling.prompts_of(PageState(), name)
        rows = [row for row in shown[sampling.prompts] if any(row)]
        return rows[0][0], shown[sampling.sampler], shown[sampling.steps], bool(shown[sampling.unsaved])

    sampling.follow(REQUEST, {path: str(file)})
    sampling.keep(REQUEST, typed)
    assert loaded_anew(file) == ("a dog", "euler", 7, True)
    sampling.reload(REQUEST, {path: str(file)})
    assert loaded_anew(file) == ("a cat", "", 20, False)
    sampling.keep(REQUEST, typed)
    saved = sampling.save_prompts(REQUEST, a_table(sampling, ["a dog", "", "", "", "", ""]))
    assert loaded_anew(saved[path]) == ("a dog", "", 20, False)
    assert loaded_anew(file) == ("a cat", "", 20, False)


def test_a_run_draws_the_prompts_in_the_table_whether_they_were_saved_or_not(tmp_path: Path) -> None:
    context = Context(user=UserFiles(tmp_path / "user"))
    page = OwnerPage(context)
    sampling, path = page.sampling, page.form.controls["sample_prompts"]
    (tmp_path / "prompts.txt").write_text("a cat\n")
    shown = sampling.follow(REQUEST, {path: str(tmp_path / "prompts.txt")})
    held = {path: str(tmp_path / "prompts.txt"), sampling.unsaved: "", **{c: shown[c] for c in sampling.outputs}}
    assert sampling.save_edited(REQUEST, held) == {}, "nothing was changed: the file that is set is used"
    held |= {sampling.unsaved: UNSAVED_HTML, sampling.prompts: [["a dog", "", "x", "", "", ""]]}
    with pytest.raises(SettingsError) as wrong:
        sampling.save_edited(REQUEST, held)
    assert [problem.path for problem in wrong.value.problems] == ["sample_prompts"]
    assert "row 1: Seed must be a whole number" in str(wrong.value)
    saved = sampling.save_edited(REQUEST, {**held, sampling.prompts: [["a dog", "", "3", "", "", ""]]})
    assert json.loads(Path(saved[path]).read_text())["samples"] == [{"prompt": "a dog", "seed": 3}]
    assert saved[sampling.unsaved] == ""
    assert sampling.save_edited(REQUEST, {**held, path: "another.txt"}) == {}, "the table is of another file"


def test_a_problem_is_listed_once(filled: Filled) -> None:
    values = {**defaults(), "batch_size": 0, "lr": "fast"}

    def forecast_of(form: dict[str, object]) -> str:
        return str(filled.tab.memory.updates(REQUEST, form, 0)[filled.tab.memory.problems])

    before = forecast_of(values)
    assert "(batch_size)" in before and "(lr)" in before
    with pytest.raises(SettingsError):
        filled.context.start(values)
    assert {"batch_size", "lr"} <= {problem.path for problem in filled.context.service.snapshot().problems}
    assert forecast_of(values) == f'<p class="ed-note">{LISTED_IN_STRIP}</p>'
    others = forecast_of({**values, "project_name": "../evil"})
    assert "(project_name)" in others and "(batch_size)" not in others


def test_the_newest_form_of_a_page_is_kept_in_whatever_order_they_arrive(tmp_path: Path) -> None:
    context, page = Context(user=UserFiles(tmp_path / "user")), PageState()

    def kept(page: PageState, turn: int, name: str) -> object:
        is_newest = context.keep_form({"project_name": name}, page, turn)
        assert is_newest == (context.form_values() == {"project_name": name})
        assert context.user.draft() == context.form_values()
        return context.form_values()["project_name"]

    assert kept(page, 2, "second") == "second"
    assert kept(page, 1, "first") == "second"
    assert kept(PageState(), 1, "of another page") == "of another page"


def test_a_page_that_was_open_before_changes_only_what_is_changed_on_it(tmp_path: Path) -> None:
    context = Context(user=UserFiles(tmp_path / "user"))
    old = {"project_name": "demo", "lr": 1e-6}
    one, two = PageState(form=old), PageState(form=old)
    assert context.keep_form({**old, "project_name": "cats"}, one, 1)
    assert context.keep_form(old, two, 1), "Check sends the form too"
    assert context.form_values()["project_name"] == "cats"
    assert context.keep_form({**old, "lr": 2e-6}, two, 2)
    assert context.user.draft() == {"project_name": "cats", "lr": 2e-6}
    assert context.keep_form({**old, "project_name": "dogs", "lr": 2e-6}, two, 3)
    assert context.form_values()["project_name"] == "dogs"
