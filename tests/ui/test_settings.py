"""The Settings tab: search, views, what applies, the way from a problem to its field, presets, the panel."""

import json
import re

import pytest

from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.ui.actions import choose_preset, fill, overflow, reload, reset, state, tab

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

SHOWN = """() => [...document.querySelectorAll('#settings-fields .form > .block')].filter(e => e.offsetParent)
  .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top
    || a.getBoundingClientRect().left - b.getBoundingClientRect().left).map(e => e.id)"""
"""The fields that can be seen, in the order of reading."""


def shown(page) -> list[str]:
    return page.evaluate(SHOWN)


def look(page, view: str) -> None:
    page.get_by_role("radio", name=view, exact=True).check()


def choose(page, name: str, value: str) -> None:
    page.locator(f"#{name} input").click()
    page.get_by_role("option", name=value, exact=True).click()


def test_settings_are_found_viewed_and_hidden_where_they_do_not_apply(open_page, server: Server) -> None:
    server.begin_with()
    page = open_page()
    state(page, "idle")
    tab(page, "Settings")
    expect(page.locator("#method")).to_be_visible()
    assert shown(page)[:3] == ["method", "project_name", "resume_ckpt"] and "lora_rank" not in shown(page)
    search, told = page.get_by_role("searchbox", name="Search settings"), page.locator("#settings-found")
    search.fill("lr")
    found = shown(page)
    assert found[0] == "lr" and {"text_encoder_lr", "lr_scheduler"} <= set(found) and "batch_size" not in found
    search.fill("learning rate")
    named, of_help = (shown(page).index(name) for name in ("lr_warmup_steps", "batch_size"))
    assert named < of_help, "hits in the help come after those in names and labels"
    search.fill("sample interval")
    assert shown(page) == []
    told.get_by_role("button", name="Sample interval").click()
    expect(page.locator("#sample_steps input")).to_be_focused()
    tab(page, "Settings")
    search.fill("no such thing")
    expect(told).to_have_text("No setting matches “no such thing”. Try another word.")
    for word in ("rank", "network_dim"):  # as here, and as in other trainers
        search.fill(word)
        expect(told).to_contain_text("LoRA rank (method is full)")
    search.fill("")
    choose(page, "method", "lora")
    expect(page.locator("#lora_rank")).to_be_visible()
    look(page, "All")
    page.get_by_role("button", name=re.compile("^Text encoder")).click()
    expect(page.locator("#text_encoder_lr_scheduler")).to_be_visible()
    expect(page.locator("#freeze_embeddings")).to_be_hidden()
    choose(page, "method", "full")
    expect(page.locator("#freeze_embeddings")).to_be_visible()
    fill(page, "seed", 7)
    look(page, "Changed")
    expect(page.locator("#seed")).to_be_visible()
    expect(page.locator("#lr")).to_be_hidden()
    the_optimizer_in_force_is_said(page)


def the_optimizer_in_force_is_said(page) -> None:
    look(page, "Basic")
    note = "getComputedStyle(document.getElementById('optimizer'), '::after').content"
    page.wait_for_function(f"{note}.includes('In use: adamw')")
    choose(page, "optimizer", "lion")
    page.wait_for_function(f"{note}.includes('In use: lion.')")
    choose(page, "optimizer", "automatic")


def test_a_problem_leads_to_its_field_and_a_preset_says_what_it_would_change(open_page, server: Server) -> None:
    server.begin_with(seed=-5)
    page = open_page()
    state(page, "idle")
    tab(page, "Settings")
    problem = page.locator("#memory-panel").get_by_role("button", name=re.compile("Seed \\(seed\\)"))
    expect(page.locator("#seed")).to_be_hidden()
    problem.click()
    field = page.locator("#seed input")
    expect(field).to_be_focused()
    expect(field).to_be_in_viewport()
    assert "not allowed" in page.evaluate("getComputedStyle(document.getElementById('seed'), '::after').content")
    field.fill("5")
    expect(problem).to_have_count(0)
    expect(page.locator("#memory-plan .ed-plan")).to_be_in_viewport()
    look(page, "Basic")
    choose_preset(page, "SD 1.5 on a 12 GB card")
    preview = page.locator("#preset-difference")
    expect(preview).to_contain_text("A 12 GB card")
    expect(preview).to_contain_text("Epochs --max_epochs: 4 → 60")
    expect(page.locator("#max_epochs input")).to_have_value("4")
    page.locator("#load-preset-button").click()
    expect(page.locator("#max_epochs input")).to_have_value("60")
    expect(preview).to_contain_text("The form matches this preset.")
    expect(page.locator("#resume_ckpt input, #resume_ckpt textarea").first).to_have_value(re.compile("model$"))
    page.locator("#reset-button").click()
    page.locator("#confirm-reset-button").click()
    expect(page.locator("#max_epochs input")).to_have_value("300")
    expect(page.locator("#resume_ckpt input, #resume_ckpt textarea").first).to_have_value(re.compile("model$"))


def test_on_a_phone_search_and_panel_are_at_hand(open_page, server: Server) -> None:
    server.begin_with()
    page = open_page(390, 844, has_touch=True, is_mobile=True)
    state(page, "idle")
    tab(page, "Settings")
    head, body = page.locator("#panel-button"), page.locator("#panel-body")
    expect(head).to_be_in_viewport()
    expect(body).to_be_hidden()
    head.tap()
    expect(body).to_be_visible()
    expect(head).to_have_attribute("aria-expanded", "true")
    head.tap()
    page.get_by_role("searchbox", name="Search settings").fill("lr")
    expect(page.locator("#lr")).to_be_in_viewport()
    look(page, "All")
    page.locator("#settings-search").fill("")
    page.locator("#fold-all-button").tap()
    expect(page.locator("#pyramid_noise_discount")).to_be_visible()
    assert overflow(page) <= 0


def test_a_preset_is_loaded_saved_and_reset_and_the_command_follows(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    tab(page, "Settings")
    page.get_by_role("button", name="Equivalent command").click()
    choose_preset(page, "Demo")
    page.locator("#load-preset-button").click()
    expect(page.locator("#project_name input, #project_name textarea").first).to_have_value("demo")
    command = page.locator("#equivalent-command textarea")
    expect(command).to_have_value(re.compile("--project_name demo .*--resolution 64"))
    expect(page.locator("#preset-difference")).to_contain_text("matches this preset")
    expect(command).to_have_value(re.compile("--log_step 10 "))  # a field that is not drawn yet
    fill(page, "max_epochs", 77)
    expect(page.locator("#preset-difference")).to_contain_text("Epochs --max_epochs: 77 → 100")
    page.get_by_role("button", name="Save, rename or delete").click()
    fill(page, "preset-name", "mine")
    page.locator("#save-preset-button").click()
    expect(page.locator("#preset-choice input")).to_have_value("My preset: mine")
    assert json.loads((server.folder / "user" / "presets" / "mine.json").read_text())["max_epochs"] == 77
    page.get_by_role("button", name="Raw JSON").click()
    raw = page.locator("#raw-json textarea")
    expect(raw).to_have_value(re.compile('"max_epochs": 77'))
    page.locator("#reset-button").click()
    expect(page.locator("#reset-question")).to_contain_text("Image folders, base model")
    page.locator("#keep-reset-button").click()
    expect(page.locator("#reset-question")).to_be_hidden()
    expect(page.locator("#project_name input, #project_name textarea").first).to_have_value("demo")
    reset(page)
    expect(page.locator("#project_name input, #project_name textarea").first).to_have_value("myproj")
    expect(raw).to_have_value(re.compile(r'^{\s*"data_root": [^}]*"resume_ckpt": [^}]*"logdir": "[^"]+"\s*}$'))
    raw.fill('{"max_epochs": 12, "resolution": 500}')
    page.locator("#apply-json-button").click()
    message = page.get_by_text(re.compile("choose 448 or 512"))
    expect(message).to_be_visible()
    assert message.bounding_box()["y"] > page.viewport_size["height"] / 2, "below the strip and its buttons"
    raw.fill('{"max_epochs": 12}')
    page.locator("#apply-json-button").click()
    expect(page.locator("#max_epochs input")).to_have_value("12")
    expect(raw).to_have_value(re.compile(r'"max_epochs": 12,[^}]*"logdir"'))  # applied, it follows the form again
    reload(page)
    tab(page, "Settings")
    choose_preset(page, "My preset: mine")
    page.get_by_role("button", name="Save, rename or delete").click()
    page.locator("#delete-preset-button").click()
    page.locator("#confirm-preset-button").click()
    expect(page.locator("#preset-choice input")).to_have_value("")
    assert not (server.folder / "user" / "presets" / "mine.json").exists()


def test_a_check_that_is_out_of_date_is_said_in_both_tabs(open_page, server: Server) -> None:
    server.begin_with()
    page = open_page()
    state(page, "idle")
    tab(page, "Dataset")
    page.locator("#check-button").click()
    stale = page.locator("#dataset-report .ed-stale")
    expect(stale).to_have_count(1)
    expect(stale).to_be_hidden()
    tab(page, "Settings")
    field = page.locator("#resolution input")
    field.fill("128")
    field.press("Enter")
    field.press("Tab")
    expect(page.locator("#forecast")).to_contain_text("checked at 64 px")
    reload(page)
    tab(page, "Dataset")
    expect(stale).to_be_visible()
    page.locator("#check-button").click()
    expect(stale).to_be_hidden()
