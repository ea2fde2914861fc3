"""The dataset workbench, without a browser: what its handlers answer."""

import json
import os
import re
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ed2.app.images.bulk import ADD_FIRST
from ed2.app.page.folders import Roots
from ed2.app.reporters.image_losses import ImageLossReporter
from ed2.app.user_files import UserFiles
from ed2.events import ImagesMeasured
from ed2.ui.app import OwnerPage
from ed2.ui.context import Context
from ed2.ui.edit_panels import SELECTED, SHOWN
from ed2.ui.form import defaults
from ed2.ui.wiring import Updates
from tests.tiny import make_images

SIZE = (96, 96)
REQUEST = gr.Request(session_hash="1")


class Opened:
    """The tab over a folder of images that was checked."""

    def __init__(self, folder: Path, number: int, roots: Roots | None = None) -> None:
        self.folder = folder / "images"
        if not self.folder.exists():
            make_images(self.folder, [SIZE] * number)
        begin = {"data_root": [str(self.folder)], "resolution": 64, "seed": 1}
        self.context = Context(user=UserFiles(folder / "user"), begin=begin, roots=roots or Roots())
        self.page = page = OwnerPage(self.context)
        self.tab, self.grid, self.starter = page.dataset, page.dataset.grid, page.strip.starter
        self.held = {control: control.value for control in self.starter.inputs}
        self.check()

    def check(self) -> None:
        self.tab.check_images(self.held, progress=lambda *_, **__: None)

    def key(self, name: str) -> str:
        return str(self.folder / name)

    def show(self, search: str = "", **asked: Any) -> Updates:
        return self.grid.show(json.dumps(asked), search, "Name")

    def type(self, name: str, text: str) -> Updates:
        return self.grid.keep(json.dumps({"typed": {self.key(name): text}}), "", "Name", text)

    def drafts(self) -> int:
        """The number of the last draft that the grid shows."""
        found = re.search(r'data-drafts="(\d+)"', self.show()[self.grid.grid])
        assert found
        return int(found[1])

    def save(self, **asked: Any) -> Updates:
        return self.grid.save_captions(json.dumps({"drafts": self.drafts(), **asked}), "", "Name")

    def drawn(self, **asked: Any) -> dict[str, str]:
        """The text in each tile of the grid, by name."""
        html = self.show(**asked)[self.grid.grid]
        found = re.findall(r'data-image="([^"]*)" data-number="\d+" data-text="([^"]*)"', html)
        return {key.rpartition("/")[2]: text for key, text in found}


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    told: list[str] = []
    monkeypatch.setattr(gr, "Info", lambda text, **_: told.append(text))
    opened = Opened(tmp_path, 3)
    opened.told = told
    return opened


def test_a_check_with_other_image_settings_is_outdated_and_the_plan_says_so(opened: Opened) -> None:
    settings = opened.page.settings
    values = {**defaults(), **opened.context.form_values()}

    def found(**changes: object) -> tuple[bool, str]:
        now = {**values, **changes}
        plan = settings.memory.updates(REQUEST, now, 0)[settings.memory.forecast]
        return settings.facts(now, None, 0).is_check_outdated, str(plan)

    is_outdated, plan = found()
    assert not is_outdated and "Press Check again" not in plan
    is_outdated, plan = found(resolution=512)
    assert is_outdated and "The images were checked at 64 px" in plan
    assert found(data_root=[str(opened.folder.parent)])[0]
    assert not found(lr=0.1)[0]


def test_typed_captions_are_kept_and_counted_until_they_are_saved_together(opened: Opened) -> None:
    shown = opened.type("00.png", "mine")
    assert "Unsaved captions: 00.png." in shown[opened.grid.unsaved]
    assert "1 of 75 tokens" in shown[opened.grid.tokens]
    assert "the last 25 are ignored" in opened.type("01.png", "cat " * 100)[opened.grid.tokens]
    opened.type("01.png", "another one")
    opened.check()  # nor is it lost by another check
    assert opened.drawn() == {"00.png": "mine", "01.png": "another one", "02.png": "an image of number 2"}
    assert "Unsaved captions: 01.png." in opened.type("00.png", " an image of  number 0")[opened.grid.unsaved]
    opened.type("00.png", "mine")
    opened.save()
    assert opened.told == ["Saved 2 captions."]
    assert [(opened.folder / f"0{n}.txt").read_text() for n in range(2)] == ["mine\n", "another one\n"]
    assert "Unsaved" not in opened.show()[opened.grid.unsaved]
    with pytest.raises(gr.Error, match="no caption was changed"):
        opened.save()


def test_train_asks_about_captions_of_its_images_that_are_not_saved(opened: Opened) -> None:
    starter, problems = opened.starter, opened.page.strip.problems
    opened.type("00.png", "mine")
    asked = starter.start(REQUEST, opened.held)
    assert asked[starter.row]["visible"] and "1 caption is not saved: 00.png." in asked[starter.text]
    other = {**opened.held, opened.page.form.controls["data_root"]: str(opened.folder.parent)}
    assert "(resume_ckpt)" in starter.start(REQUEST, other)[problems], "not asked: the start says what is missing"
    assert "(resume_ckpt)" in starter.start_anyway(REQUEST, opened.held)[problems]
    assert opened.drawn()["00.png"] == "mine" and not opened.told, "it is still a draft"
    assert not starter.save_and_start(REQUEST, opened.held)[starter.row]["visible"]
    assert opened.told == ["Saved the caption of 00.png."]
    assert (opened.folder / "00.txt").read_text() == "mine\n"
    assert not starter.start(REQUEST, opened.held)[starter.row]["visible"]


def test_what_is_typed_after_the_press_is_not_saved_even_if_it_arrives_first(opened: Opened) -> None:
    opened.type("00.png", "shown before")
    shown = opened.drafts()
    opened.type("02.png", "typed after the press")
    opened.save(drafts=shown, typed={opened.key("01.png"): "not heard of before"})
    assert opened.told == ["Saved 2 captions."]
    assert opened.drawn() == {
        "00.png": "shown before",
        "01.png": "not heard of before",
        "02.png": "typed after the press",
    }
    assert "Unsaved captions: 02.png." in opened.show()[opened.grid.unsaved]


def test_undo_discards_what_was_typed_and_then_the_last_save(opened: Opened) -> None:
    opened.type("00.png", "mine")
    opened.save()
    opened.type("00.png", "mine and more")
    for text in ("mine", "an image of number 0", "an image of number 0"):
        opened.grid.undo_last(json.dumps({"chosen": opened.key("00.png")}), "", "Name")
        assert opened.drawn()["00.png"] == text
    assert [told.partition(" ")[0] for told in opened.told] == ["Saved", "What", "Undone:", "There"]


def test_no_caption_is_written_for_an_image_that_is_gone(opened: Opened) -> None:
    opened.type("00.png", "mine")
    (opened.folder / "00.png").unlink()
    (opened.folder / "00.txt").unlink()
    with pytest.raises(gr.Error, match=r"00\.png no longer exists"):
        opened.save()
    assert not (opened.folder / "00.txt").exists()


def test_an_image_whose_name_is_not_text_is_shown_and_its_caption_saved_and_restored(opened: Opened) -> None:
    named = Path(os.fsdecode(os.fsencode(opened.folder) + b"/caf\xe9.png"))
    (opened.folder / "01.png").rename(named)
    opened.check()
    json.dumps(list(opened.show().values()), ensure_ascii=False).encode()  # as it is sent
    key = next(name for name in opened.drawn() if "caf" in name)
    opened.type(key, "a place in Paris")
    opened.save()
    assert named.with_suffix(".txt").read_text() == "a place in Paris\n"
    opened.grid.undo_last("{}", "", "Name")
    assert not named.with_suffix(".txt").exists()


def test_what_a_browser_sends_is_not_trusted(opened: Opened) -> None:
    for asked in ("", "[]", "{", '{"page": -3}', '{"page": "x", "marks": 3, "tag": [], "ticked": "x", "typed": [1]}'):
        assert "3 images" in opened.grid.show(asked, "", "?")[opened.grid.grid]
    typed = json.dumps({"typed": {"/etc/hosts": "x", "/etc/passwd": ["y"]}})
    assert "Unsaved" not in opened.grid.show(typed, "", "Name")[opened.grid.unsaved]


def test_filters_search_and_tags_narrow_the_grid(opened: Opened) -> None:
    (opened.folder / "02.txt").unlink()
    (opened.folder / "broken.png").write_bytes(b"\x89PNG")
    opened.check()
    list(opened.tab.read_rest(progress=lambda *_, **__: None))
    chips = opened.show()[opened.grid.chips]
    assert "Caption from file name <b>1</b>" in chips and "Unusable <b>1</b>" in chips and "Near" not in chips
    assert list(opened.drawn(marks=["named"])) == ["02.png"]
    assert list(opened.drawn(search="NUMBER 1")) == ["01.png"]
    assert list(opened.drawn(tag="an image of number 0")) == ["00.png"]
    assert "No image matches" in opened.show(marks=["named"], search="number")[opened.grid.grid]
    assert "Not used: " in opened.show(marks=["unusable"])[opened.grid.grid]


def test_images_are_sorted_and_filtered_by_the_losses_of_the_newest_run_on_their_folder(opened: Opened) -> None:
    def order(sort: str, **asked: Any) -> list[str]:
        html = opened.grid.show(json.dumps(asked), "", sort)[opened.grid.grid]
        return [key.rpartition("/")[2] for key in re.findall(r'data-image="([^"]*)"', html)]

    assert order("Highest loss first") == ["00.png", "01.png", "02.png"]
    assert "No run in your folder of runs" in opened.grid.show("{}", "", "Highest loss first")[opened.grid.grid]
    run = opened.folder.parent / "logs" / "mine_20250101-120000"
    run.mkdir(parents=True)
    (run / "settings.json").write_text(json.dumps({"data_root": [str(opened.folder)]}))
    reporter = ImageLossReporter(run)
    for step, known in ((0, 0.5), (10, 0.3), (20, 0.1)):
        reporter(ImagesMeasured(step, {"0/01.png": known, "0/02.png": 0.2}))
    opened.context.keep_form({**opened.context.form_values(), "logdir": str(run.parent)})
    assert order("Highest loss first") == ["02.png", "01.png", "00.png"], "what was not measured comes last"
    assert order("Lowest loss first") == ["01.png", "02.png", "00.png"]
    shown = opened.grid.show("{}", "", "Name")
    assert "Memorised <b>1</b>" in shown[opened.grid.chips] and "Not learned yet <b>1</b>" in shown[opened.grid.chips]
    told = "loss 0.1000 at step 20, 0.5000 at first, mean 0.3000 of 3 measurements: memorised (mine_20250101-120000)"
    assert told in shown[opened.grid.grid]
    assert order("Name", marks=["memorised"]) == ["01.png"]
    opened.check()
    assert order("Name", marks=["unlearned"]) == ["02.png"], "also after another check"
    reporter(ImagesMeasured(30, {"0/01.png": 0.4, "0/02.png": 0.05}))
    assert order("Name", marks=["memorised"]) == ["02.png"], "as soon as it is measured again"


def test_a_change_of_many_captions_is_shown_before_it_is_made_and_undone_as_one(opened: Opened) -> None:
    bulk, ticked = opened.tab.bulk, json.dumps({"ticked": [0, 2], "revision": opened.context.desk.bench.revision})
    with pytest.raises(gr.Error, match="Press Preview first"):
        bulk.change(REQUEST)
    shown = bulk.plan(REQUEST, ticked, "", "Name", ADD_FIRST, SELECTED, "sks", "")
    assert "2 captions would change" in shown[bulk.preview] and "<ins>sks, </ins>" in shown[bulk.preview]
    assert (opened.folder / "00.txt").read_text() == "an image of number 0"
    bulk.forget(REQUEST)
    with pytest.raises(gr.Error, match="Press Preview first"):
        bulk.change(REQUEST)
    bulk.plan(REQUEST, "{}", "number 1", "Name", ADD_FIRST, SHOWN, "sks", "")
    bulk.change(REQUEST)
    assert opened.drawn()["01.png"] == "sks, an image of number 1"
    bulk.plan(REQUEST, ticked, "", "Name", ADD_FIRST, SELECTED, "sks", "")
    assert bulk.change(REQUEST)[bulk.undo]["visible"]
    opened.type("01.png", "mine")
    opened.save()
    with pytest.raises(gr.Error, match="Something else has been saved since"):
        bulk.undo_change(REQUEST)
    opened.grid.undo_last("{}", "", "Name")
    assert "added in 2 captions." in bulk.undo_change(REQUEST)[bulk.preview]
    assert list(opened.drawn().values()) == [
        "an image of number 0",
        "sks, an image of number 1",
        "an image of number 2",
    ]
    with pytest.raises(gr.Error, match="folder has changed"):
        bulk.plan(REQUEST, json.dumps({"ticked": [0], "revision": "older"}), "", "Name", ADD_FIRST, SELECTED, "sks", "")


def test_a_later_change_in_the_same_words_is_not_undone_in_the_place_of_the_first(opened: Opened) -> None:
    bulk, other_page = opened.tab.bulk, gr.Request(session_hash="2")
    for request, number in ((REQUEST, 0), (other_page, 1)):
        bulk.plan(request, "{}", f"number {number}", "Name", ADD_FIRST, SHOWN, "sks", "")
        bulk.change(request)
    with pytest.raises(gr.Error, match="Something else has been saved since"):
        bulk.undo_change(REQUEST)
    bulk.undo_change(other_page)
    assert "added in 1 caption." in bulk.undo_change(REQUEST)[bulk.preview]
    assert not any("sks" in text for text in opened.drawn().values())


def test_a_folder_gets_a_weight_that_is_shown_with_its_images(opened: Opened) -> None:
    weights = opened.tab.weights
    weights.set_weight("images", "2")
    assert (opened.folder / "multiply.txt").read_text() == "2\n"
    assert "multiply 2 from multiply.txt" in opened.show()[opened.grid.grid]
    opened.context.desk.refresh()
    assert "<td>3 images</td><td>2</td>" in weights.show(None)[weights.list]
    for folder, text, why in (("images", "x", "Enter a number"), ("images", "-1", "from 0"), ("?", "2", "Choose a")):
        with pytest.raises(gr.Error, match=why):
            weights.set_weight(folder, text)
    opened.grid.undo_last("{}", "", "Name")
    assert not (opened.folder / "multiply.txt").exists()


def test_an_image_outside_of_the_allowed_folders_is_neither_shown_nor_written(tmp_path: Path) -> None:
    outside = make_images(tmp_path / "outside", [SIZE])
    folder = make_images(tmp_path / "in" / "images", [SIZE] * 2)
    (folder / "linked.png").symlink_to(outside / "00.png")
    (folder / "linked.txt").symlink_to(outside / "00.txt")
    opened = Opened(tmp_path / "in", 0, Roots((folder,)))
    grid = opened.show()[opened.grid.grid]
    assert "linked.png" in grid and grid.count("<img") == 2
    opened.type("linked.png", "changed")
    with pytest.raises(gr.Error, match="Nothing was changed"):
        opened.save()
    assert (outside / "00.txt").read_text() == "an image of number 0"
