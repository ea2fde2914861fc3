"""The captions and pages of the Dataset tab, without a browser."""

import json
import os
from pathlib import Path

import gradio as gr
import pytest

from ed2.app.user_files import UserFiles
from ed2.ui.app import OwnerPage
from ed2.ui.caption_editor import PER_PAGE
from ed2.ui.context import Context
from ed2.ui.wiring import Updates
from tests.tiny import make_images

SIZE = (96, 96)
REQUEST = gr.Request(session_hash="1")


class Opened:
    """The tab over a folder of images that was checked."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = make_images(folder / "images", [SIZE] * number)
        begin = {"data_root": [str(self.folder)], "resolution": 64, "seed": 1}
        page = OwnerPage(Context(user=UserFiles(folder / "user"), begin=begin))
        self.tab, self.editor = page.dataset, page.dataset.captions
        self.raw = [control.value for control in page.form.inputs]
        self.check()

    def check(self) -> None:
        self.tab.check_images(*self.raw)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def show_again(self, page: float, path: str | None, text: str) -> Updates:
        return self.editor.show_again(REQUEST, page, path, text)

    def edited(self, page: float, path: str | None, text: str) -> tuple[object, object]:
        """The image and the caption that are shown after another look; a caption that is left alone is None."""
        updates = self.show_again(page, path, text)
        return updates[self.editor.image]["value"], updates.get(self.editor.caption)

    def save(self, path: str, text: str) -> str:
        return self.tab.editing(self.editor.save_caption)(path, text, *self.raw)

    def undo(self, path: str, text: str) -> str:
        return self.tab.editing(self.editor.undo_caption)(path, text, *self.raw)


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return Opened(tmp_path, 3)


def test_a_typed_caption_is_shown_again_and_listed_until_it_is_saved(opened: Opened) -> None:
    editor, first, second = opened.editor, opened.path("00.png"), opened.path("01.png")
    assert "Unsaved captions: 00.png." in editor.keep_draft(first, "mine")
    opened.check()  # nor is it lost by another check
    assert opened.edited(1, None, "") == (first, "mine")
    assert "00.png" in opened.show_again(1, None, "")[editor.unsaved]
    assert opened.edited(1, first, "mine and") == (first, None), "it may still be typed in"
    assert opened.edited(1, second, "?") == (second, "an image of number 1")
    assert "00.png" not in editor.keep_draft(first, "an image of  number 0 ")


def test_saving_and_undo_say_what_they_did_and_end_the_draft(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr(gr, "Info", lambda text, **_: messages.append(text))
    editor, first = opened.editor, opened.path("00.png")
    editor.keep_draft(first, "mine")
    opened.save(first, "mine")
    assert "Unsaved" not in opened.show_again(1, first, "mine")[editor.unsaved]
    assert (opened.folder / "00.txt").read_text() == "mine\n"
    editor.keep_draft(first, "mine and more")
    opened.undo(first, "mine")
    assert opened.edited(1, first, "mine and more")[1] is None, "typed since it was pressed"
    editor.keep_draft(first, "mine")
    opened.undo(first, "mine")
    assert opened.edited(1, first, "mine")[1] == "an image of number 0"
    assert messages[0] == "Saved to 00.txt. Undo restores the old caption."
    assert "is restored" in messages[1] and "nothing to undo" in messages[2]


def test_no_caption_is_written_for_an_image_that_is_gone(opened: Opened) -> None:
    (opened.folder / "00.png").unlink()
    (opened.folder / "00.txt").unlink()
    with pytest.raises(gr.Error, match=r"00\.png no longer exists"):
        opened.save(opened.path("00.png"), "mine")
    assert not (opened.folder / "00.txt").exists()
    assert opened.editor.find(opened.path("00.png"))  # its tile stays until the next check


def test_an_image_whose_name_is_not_text_is_shown_and_its_caption_saved_and_restored(
    opened: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    named = Path(os.fsdecode(os.fsencode(opened.folder) + b"/caf\xe9.png"))
    (opened.folder / "01.png").rename(named)
    opened.check()
    shown = opened.editor.turn_to(REQUEST, 1, None, "")
    json.dumps(list(shown.values()), ensure_ascii=False).encode()  # as it is sent
    chosen = next(path for _, path in shown[opened.editor.image]["choices"] if "caf" in path)
    opened.save(chosen, "a place in Paris")
    assert named.with_suffix(".txt").read_text() == "a place in Paris\n"
    opened.undo(chosen, "")
    assert not named.with_suffix(".txt").exists()
    assert r"Saved to caf\udce9.txt." in capsys.readouterr().out


def test_a_page_number_that_does_not_exist_becomes_the_nearest_one(tmp_path: Path) -> None:
    opened = Opened(tmp_path, PER_PAGE + 1)
    editor = opened.editor
    assert (editor.page.minimum, editor.page.maximum) == (None, None)  # else Gradio answers with a bare error
    for asked, number in ((-3, 1), (0, 1), (None, 1), (9, 2)):
        shown = editor.turn_to(REQUEST, asked, None, "")
        assert shown[editor.page] == number and f"Page {number} of 2" in shown[editor.thumbs]
    second = editor.turn_to(REQUEST, 2, None, "")
    assert editor.page not in second
    again = opened.show_again(1, second[editor.image]["value"], "")
    assert again[editor.page] == 2, "the page of the chosen image"
