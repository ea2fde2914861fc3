"""Choosing a base model in a browser: found on this computer, or downloaded after a press that is the yes."""

import shutil
from pathlib import Path

import pytest

from ed2.app.checks.start_checks import base_problems
from ed2.app.page.folders import Roots
from ed2.app.user_files import UserFiles
from ed2.ui.app import OwnerPage
from ed2.ui.context import Context
from ed2.ui.html import on_page
from tests.hub import LocalHub, environment, files_of, serving
from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
import gradio as gr
from playwright.sync_api import expect

from tests.ui.actions import fill, tab

BASE = "#resume_ckpt textarea, #resume_ckpt input"


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_is_looked_up_downloaded_found_and_chosen(
    open_page, server: Server, sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    downloads = server.page.settings.models.downloads
    with serving(LocalHub(files=files_of(sd1))) as hub:
        downloads.downloader.environment = environment(tmp_path, hub.url)
        page = open_page()
        tab(page, "Settings")
        fill(page, "resume_ckpt", "owner/tiny")  # as a preset names it
        page.get_by_role("button", name="Choose a base model").click()
        expect(page.locator("#download-name textarea, #download-name input").first).to_have_value("owner/tiny")
        fill(page, "resume_ckpt", "/nowhere")
        page.locator("#look-up-button").click()
        status = page.locator("#download-status")
        expect(status).to_have_attribute("data-state", "offered")
        expect(status).to_contain_text("Licence, as its model card says: creativeml-openrail-m")
        assert not hub.fetched()
        page.locator("#download-button").click()
        expect(status).to_have_attribute("data-state", "done")
        expect(page.locator("#download-button")).to_be_hidden()
        status.get_by_role("button", name="owner/tiny").click()
        expect(page.locator(BASE).first).to_have_value("owner/tiny")
    page = open_page()
    tab(page, "Settings")
    fill(page, "resume_ckpt", "/nowhere")
    page.get_by_role("button", name="Choose a base model").click()
    card = page.locator("#found-models").get_by_role("button", name="owner/tiny")
    for fact in ("Family: SD 1.x", "Prediction type: noise (epsilon)", "Size: ", "Licence: not stated"):
        expect(card).to_contain_text(fact)
    card.click()
    expect(page.locator(BASE).first).to_have_value("owner/tiny")


def test_a_page_that_may_open_only_some_folders_downloads_nothing_and_finds_only_there(
    sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub" / "models--owner--tiny" / "snapshots" / "abc"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(sd1, cache)
    shutil.copytree(sd1, tmp_path / "allowed" / "mine")
    (tmp_path / "allowed" / "out").symlink_to(tmp_path / "hub")
    dirs = [str(tmp_path / "allowed"), str(tmp_path / "hub")]
    context = Context(
        user=UserFiles(tmp_path / "user"), roots=Roots((tmp_path / "allowed",)), begin={"model_dirs": dirs}
    )
    downloads = OwnerPage(context).settings.models.downloads
    assert "mine" in downloads.find() and "abc" not in downloads.find() and "owner/tiny" not in downloads.find()
    with pytest.raises(gr.Error, match="cannot download"):
        downloads.ask("owner/tiny")
    with pytest.raises(gr.Error, match="cannot download"):
        downloads.begin()


def test_what_a_message_says_of_the_command_is_the_place_on_the_page() -> None:
    (problem,) = base_problems({"resume_ckpt": "owner/none"})
    assert "or download it first: “Choose a base model” in the Settings tab" in on_page(str(problem))
