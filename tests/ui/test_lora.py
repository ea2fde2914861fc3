"""Extracting a LoRA in a browser: one press on a finished run."""

import re
from pathlib import Path

import pytest

from ed2.models.lora.file import read_lora
from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.ui.actions import fill, overflow, state, tab

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_one_press_on_a_finished_run_writes_a_lora_and_says_what_it_keeps(open_page, server: Server) -> None:
    files = server.folder / "files"
    service = server.context.service
    service.start({**server.values, "max_epochs": 1, "lr": 1e-3, "save_ckpt_dir": str(files)})
    assert service.wait(300)
    page = open_page(width=390, height=844)
    state(page, "done")
    tab(page, "Resume")
    result, button = page.locator("#lora-result"), page.locator("#extract-lora-button")
    page.locator("#lora-card .label-wrap").click()
    checkpoint = Path(service.snapshot().checkpoint).name
    expect(page.locator("#lora-checkpoint input")).to_have_value(checkpoint)
    expect(page.locator("#lora-rank input")).to_have_value("32")
    expect(button).to_be_enabled()
    button.click()
    expect(result).to_have_attribute("data-state", "done", timeout=120_000)
    (lora,) = files.iterdir()
    assert lora.name == f"{checkpoint}-lora-r32.safetensors" and read_lora(lora)
    expect(result).to_contain_text(str(lora))
    expect(result).to_contain_text(str(server.values["resume_ckpt"]))
    expect(result).to_contain_text(re.compile(r"UNet: \d+\.\d% of the change of its layers is kept"))
    expect(page.locator("#stop-extraction-button")).to_be_hidden()
    assert overflow(page) <= 0
    fill(page, "lora-rank", 0)
    button.click()
    expect(page.get_by_text("a whole number from 1 to 1,024")).to_be_visible()
    other = open_page()
    tab(other, "Resume")
    other.locator("#lora-card .label-wrap").click()
    expect(other.locator("#lora-result")).to_contain_text(str(lora))
    tab(other, "Train")
    other.locator("#extract-from-run-button").click()
    expect(other.locator("#lora-result")).to_contain_text("-lora-r32 (2).safetensors", timeout=120_000)
    expect(other.locator("#lora-result")).to_be_visible()
