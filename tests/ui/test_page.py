"""The page itself: its ids, its form, the dataset, the phone."""

import json
import re
import time

import pytest

from ed2.settings.fields import fields
from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.ui.actions import fill, overflow, state, tab

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

TABS = ("Dataset", "Settings", "Sampling", "Resume", "Train")
IDS = [
    "status", "train-button", "pause-button", "stop-button", "problems", "tab-dataset", "tab-settings", "tab-sampling",
    "tab-resume", "tab-train", "sample-now-button", "save-now-button", "samples-gallery", "loss-chart", "memory-card",
    "log-tail", "share-button",
]  # fmt: skip


def open_everything(page) -> None:
    for name in TABS:
        tab(page, name)
        expect(page.locator(f"#tab-{name.lower()}")).to_be_visible()
    tab(page, "Settings")
    page.get_by_role("button", name="Advanced").click()
    for title in page.locator("#advanced button.label-wrap").all()[1:]:
        title.click()


def test_every_id_of_the_contract_and_every_setting_is_there_once(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    open_everything(page)
    counts = page.evaluate("ids => ids.map(id => document.querySelectorAll('#' + CSS.escape(id)).length)",
                           [*IDS, *fields()])  # fmt: skip
    assert {name: count for name, count in zip([*IDS, *fields()], counts, strict=True) if count != 1} == {}
    assert page.locator("#loss-chart svg").count() == 1


def test_every_control_has_a_name(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    for name in TABS:
        tab(page, name)
        for role in ("button", "textbox", "combobox", "spinbutton", "checkbox", "slider", "radio"):
            for control in page.get_by_role(role).all():
                snapshot = control.aria_snapshot()
                assert '"' in snapshot.split("\n")[0], (name, snapshot)


def test_all_that_is_wrong_is_told_at_once_with_the_names_of_the_fields(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    tab(page, "Settings")
    fill(page, "batch_size", 0)
    fill(page, "project_name", "../evil")
    fill(page, "lr", "fast")
    fill(page, "resume_ckpt", "/nowhere/model")
    page.locator("#train-button").click()
    box = page.locator("#problems")
    for name in ("batch_size", "project_name", "lr", "resume_ckpt"):
        expect(box).to_contain_text(f"({name})")
    expect(box).to_have_attribute("role", "alert")
    state(page, "idle")
    page.reload()
    state(page, "idle")
    tab(page, "Settings")
    expect(page.locator("#project_name input, #project_name textarea").first).to_have_value("../evil")
    for name in ("batch_size", "project_name", "resume_ckpt"):
        fill(page, name, server.values.get(name, 2))
    fill(page, "lr", "")
    deadline = time.monotonic() + 20
    draft = server.folder / "user" / "draft.json"
    while time.monotonic() < deadline and json.loads(draft.read_text())["lr"] is not None:
        time.sleep(0.1)
    assert json.loads(draft.read_text())["lr"] is None


def test_a_check_shows_the_pictures_and_a_caption_is_changed_and_put_back(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    page.locator("#check-button").click()
    expect(page.locator("#dataset-report")).to_contain_text("4 pictures can be used", timeout=60_000)
    expect(page.locator("#dataset-pictures img")).to_have_count(4)
    caption = page.locator("#caption-text textarea")
    expect(caption).to_have_value("a picture of number 0")
    caption.fill("a <b>new</b> caption")
    page.locator("#save-caption-button").click()
    expect(page.locator("#dataset-pictures")).to_contain_text("a <b>new</b> caption")
    side_car = server.folder / "pictures" / "00.txt"
    assert side_car.read_text() == "a <b>new</b> caption\n"
    page.locator("#undo-caption-button").click()
    expect(page.locator("#dataset-pictures")).to_contain_text("a picture of number 0")
    assert side_car.read_text() == "a picture of number 0"
    assert sorted(p.suffix for p in side_car.parent.iterdir()) == [".png"] * 4 + [".txt"] * 4
    tab(page, "Settings")
    fill(page, "max_epochs", 7)
    expect(page.locator("#forecast")).to_contain_text("steps in 7 epochs")


def test_a_preset_is_loaded_kept_and_reset_and_the_command_follows(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    tab(page, "Settings")
    page.get_by_role("button", name="Equivalent command").click()
    page.locator("#load-preset-button").click()
    expect(page.locator("#project_name input, #project_name textarea").first).to_have_value("demo")
    command = page.locator("#equivalent-command textarea")
    expect(command).to_have_value(re.compile("--project_name demo .*--resolution 64"))
    expect(page.locator("#preset-difference")).to_contain_text("as in this preset")
    fill(page, "max_epochs", 77)
    expect(page.locator("#preset-difference")).to_contain_text("Epochs: 100 → 77")
    page.get_by_role("button", name="Save as my own preset").click()
    fill(page, "preset-name", "mine")
    page.locator("#save-preset-button").click()
    expect(page.locator("#preset-choice input")).to_have_value("My preset: mine")
    assert json.loads((server.folder / "user" / "presets" / "mine.json").read_text())["max_epochs"] == 77
    page.locator("#reset-button").click()
    expect(page.locator("#project_name input, #project_name textarea").first).to_have_value("myproj")


def test_at_phone_width_nothing_scrolls_sideways_and_targets_are_large(open_page, server: Server) -> None:
    page = open_page(390, 844, has_touch=True, is_mobile=True)
    state(page, "idle")
    for name in TABS:
        tab(page, name)
        page.wait_for_timeout(300)
        assert overflow(page) <= 0, name
        low = page.evaluate(SMALL_TARGETS)
        assert low == [], name


SMALL_TARGETS = """() => [...document.querySelectorAll(
  'button, input:not([type=checkbox], [type=radio]), textarea, label:has(> input[type=checkbox]), [role=tab]')]
  .filter(e => e.offsetParent !== null && e.getBoundingClientRect().height > 0)
  .map(e => [e.id || e.ariaLabel || e.innerText || e.tagName, Math.round(e.getBoundingClientRect().height)])
  .filter(([name, height]) => height < 44)"""
