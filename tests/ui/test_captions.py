"""The captions and pages of the tab Dataset, without a browser."""

import json
import os
from pathlib import Path

import gradio as gr
import pytest

from ed2.app.user_files import UserFiles
from ed2.ui.context import Context
from ed2.ui.dataset_tab import PER_PAGE, DatasetTab
from ed2.ui.form import Form
from tests.tiny import make_images

SIZE = (96, 96)


class Opened:
    """The tab over a folder of images that was checked."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = make_images(folder / "images", [SIZE] * number)
        form = Form({"data_root": [str(self.folder)], "resolution": 64})
        with gr.Blocks():
            self.tab = DatasetTab(Context(user=UserFiles(folder / "user")), form)
            form.add(["resolution"])
        self.raw = [str(self.folder), 64]
        self.told = self.tab._check(*self.raw)

    def path(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return Opened(tmp_path, 3)


def test_a_caption_that_was_typed_is_there_again_and_named_until_it_is_saved(opened: Opened) -> None:
    tab, first, second = opened.tab, opened.path("00.png"), opened.path("01.png")
    assert "Not saved yet: the caption of 00.png." in tab._typed(first, "mine")
    tab._check(*opened.raw)  # nor is it lost by another check
    assert tab._again(1, None, "")[1:3] == [gr.update(value=first), "mine"]
    assert "00.png" in tab._again(1, None, "")[-1]
    assert tab._again(1, first, "mine and")[1:3] == [gr.update(value=first), gr.skip()], "it may be typed on"
    assert tab._again(1, second, "?")[1:3] == [gr.update(value=second), "an image of number 1"]
    assert "00.png" not in tab._typed(first, "an image of  number 0 ")


def test_saving_and_undo_say_what_they_did_and_what_was_typed_is_no_draft_any_more(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(gr, "Info", lambda text, **_: told.append(text))
    tab, first = opened.tab, opened.path("00.png")
    tab._typed(first, "mine")
    tab._save(first, "mine", *opened.raw)
    assert tab._again(1, first, "mine")[-1] == tab._drafts.as_html([])
    assert (opened.folder / "00.txt").read_text() == "mine\n"
    tab._typed(first, "mine and more")
    tab._undo(first, "mine", *opened.raw)
    assert tab._again(1, first, "mine and more")[2] == gr.skip(), "typed since it was pressed"
    tab._typed(first, "mine")
    tab._undo(first, "mine", *opened.raw)
    assert tab._again(1, first, "mine")[2] == "an image of number 0"
    assert told[0] == "Saved to 00.txt. Undo puts the old one back."
    assert "is back" in told[1] and "Nothing was saved here" in told[2]


def test_no_caption_is_written_for_an_image_that_is_gone(opened: Opened) -> None:
    (opened.folder / "00.png").unlink()
    (opened.folder / "00.txt").unlink()
    with pytest.raises(gr.Error, match=r"00\.png no longer exists"):
        opened.tab._save(opened.path("00.png"), "mine", *opened.raw)
    assert not (opened.folder / "00.txt").exists()
    assert opened.tab._example(opened.path("00.png"))  # its tile stays until the next check


def test_an_image_whose_name_is_no_text_is_shown_and_its_caption_saved_and_put_back(
    opened: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    named = Path(os.fsdecode(os.fsencode(opened.folder) + b"/caf\xe9.png"))
    (opened.folder / "01.png").rename(named)
    opened.tab._check(*opened.raw)
    shown = opened.tab._turn_to(1, None, "")
    json.dumps(shown, ensure_ascii=False).encode()  # as it is sent
    chosen = next(path for _, path in shown[-2]["choices"] if "caf" in path)
    opened.tab._save(chosen, "a place in Paris", *opened.raw)
    assert named.with_suffix(".txt").read_text() == "a place in Paris\n"
    opened.tab._undo(chosen, "", *opened.raw)
    assert not named.with_suffix(".txt").exists()
    assert r"Saved to caf\udce9.txt." in capsys.readouterr().out


def test_a_page_that_is_not_there_becomes_the_nearest_one(tmp_path: Path) -> None:
    tab = Opened(tmp_path, PER_PAGE + 1).tab
    assert (tab.page.minimum, tab.page.maximum) == (None, None)  # else Gradio answers with a bare error
    for asked, shown in ((-3, 1), (0, 1), (None, 1), (9, 2)):
        page, _, _, thumbs, *_ = tab._turn_to(asked, None, "")
        assert page == shown and f"Page {shown} of 2" in thumbs
    assert tab._turn_to(2, None, "")[0] == gr.skip()
    assert tab._again(1, tab._turn_to(2, None, "")[1]["value"], "")[0] == 2, "the page of the image that is chosen"
