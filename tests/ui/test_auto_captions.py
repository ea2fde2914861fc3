"""Automatic captions in a browser: the model is downloaded after a press, its captions are drafts."""

from pathlib import Path

import gradio as gr
import pytest

from ed2.app.page.folders import Roots
from ed2.app.user_files import UserFiles
from ed2.ui.app import OwnerPage
from ed2.ui.context import Context
from tests.hub import LocalHub, environment, files_of, serving
from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.ui.actions import fill, overflow, state


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_images_without_a_caption_get_drafts_to_look_through_and_save(
    open_page, server: Server, captioner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = server.folder / "images"
    for number in (1, 3):
        (folder / f"0{number}.txt").unlink()
    with serving(LocalHub(files=files_of(captioner))) as hub:
        server.page.dataset.captions.download.downloader.environment = environment(tmp_path, hub.url)
        page = open_page(width=390, height=844)
        state(page, "idle")
        page.locator("#check-button").click()
        expect(page.locator("#dataset-grid [data-image]")).to_have_count(4)
        expect(page.locator("#filter-chips .ed-pending")).to_have_count(0)
        page.get_by_role("button", name="Caption images automatically").click()
        model = page.locator("#caption-download-name textarea, #caption-download-name input").first
        expect(model).to_have_value("Salesforce/blip-image-captioning-base")
        page.locator("#caption-images-button").click()
        expect(page.get_by_text("blip-image-captioning-base is not on this computer")).to_be_visible()
        fill(page, "caption-download-name", "owner/tiny")
        page.locator("#caption-look-up-button").click()
        status = page.locator("#caption-download-status")
        expect(status).to_have_attribute("data-state", "offered")
        expect(status).to_contain_text("Licence, as its model card says: creativeml-openrail-m")
        assert not hub.fetched()
        page.locator("#caption-download-button").click()
        expect(status).to_have_attribute("data-state", "done")
        expect(status).to_contain_text("This model captions images.")
        assert sorted(hub.fetched()) == ["config.json", "model.safetensors", "vocab.txt"]
    page.locator("#caption-images-button").click()
    result = page.locator("#caption-result")
    expect(result).to_have_attribute("data-state", "done", timeout=120_000)
    expect(result).to_contain_text("2 captions made.")
    expect(result).to_contain_text("2 images left as they are.")
    expect(page.locator("#dataset-grid [data-mark=unsaved]")).to_have_text(["automatic", "automatic"])
    assert overflow(page) <= 0
    draft = page.locator("#dataset-grid li").nth(1)
    text = draft.get_attribute("data-text")
    assert text and not (folder / "01.txt").exists()
    draft.get_by_role("button").click()
    caption = page.locator("#caption-text textarea")
    expect(caption).to_have_value(text)
    caption.fill("edited")
    page.locator("#save-automatic-button").click()
    expect(page.locator("#dataset-grid [data-mark=unsaved]")).to_have_count(0)
    assert (folder / "01.txt").read_text() == "edited\n" and (folder / "03.txt").read_text().strip()
    expect(page.locator("#save-automatic-button")).to_be_hidden()
    page.locator("#undo-caption-button").click()
    expect(draft).not_to_have_attribute("data-text", "edited")
    assert not (folder / "01.txt").exists() and not (folder / "03.txt").exists()


def test_a_page_that_may_open_only_some_folders_uses_no_model_elsewhere_and_downloads_none(
    captioner: Path, tmp_path: Path
) -> None:
    context = Context(user=UserFiles(tmp_path / "user"), roots=Roots((tmp_path / "allowed",)))
    captions = OwnerPage(context).dataset.captions
    with pytest.raises(gr.Error, match="cannot be opened from here"):
        captions.begin("{}", "", "Name", "All images that the filters show", False, str(captioner))
    with pytest.raises(gr.Error, match="cannot download"):
        captions.download.ask("owner/tiny")
