"""The page itself: its ids, its form, the dataset, the phone."""

import json
import re
import shutil

import pytest

from ed2.settings.fields import fields
from tests.past_runs import past_run
from tests.tiny import make_images
from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.ui import aria
from tests.ui.actions import fill, overflow, reload, reset, state, tab, wait_for_draft, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

TABS = ("Dataset", "Settings", "Sampling", "Resume", "Train")
IDS = [
    "status",
    "train-button",
    "pause-button",
    "stop-button",
    "problems",
    "tab-dataset",
    "tab-settings",
    "tab-sampling",
    "tab-resume",
    "tab-train",
    "sample-now-button",
    "save-now-button",
    "samples-gallery",
    "loss-chart",
    "memory-card",
    "log-tail",
    "share-button",
    "check-button",
    "filter-chips",
    "dataset-grid",
    "selected-image",
    "token-count",
    "tag-table",
    "bulk-edit",
    "queue-button",
    "queue",
    "compare",
]


def open_everything(page) -> None:
    for name in TABS:
        tab(page, name)
        expect(page.locator(f"#tab-{name.lower()}")).to_be_visible()
    tab(page, "Settings")
    page.get_by_role("radio", name="All", exact=True).check()
    page.locator("#fold-all-button").click()


def test_every_id_of_the_contract_and_every_setting_is_there_once(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    page.locator("#check-button").click()
    page.get_by_role("button", name="Tags").click()
    expect(page.locator("#tag-table button").first).to_be_visible()
    open_everything(page)
    for name in fields():  # a fold that was opened just now is still being filled
        page.locator(f"#{name}").first.wait_for(state="attached")
    counts = page.evaluate(
        "ids => ids.map(id => document.querySelectorAll('#' + CSS.escape(id)).length)", [*IDS, *fields()]
    )
    assert {name: count for name, count in zip([*IDS, *fields()], counts, strict=True) if count != 1} == {}
    expect(page.locator("#loss-chart svg")).to_have_count(1)
    button, choice = (
        page.locator(name).bounding_box() for name in ("#load-preset-button", "#preset-choice .wrap-inner")
    )
    assert abs(button["y"] + button["height"] - choice["y"] - choice["height"]) <= 6, "aligned with its field"


def test_every_control_has_a_name_and_is_reached_by_the_tab_key(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    expect(page.locator("#strip")).to_match_aria_snapshot(aria.STRIP)
    tab(page, "Resume")
    expect(page.locator("#runs-list")).to_contain_text("No runs yet")
    expect(page.locator("#continue-button")).to_be_hidden()
    run = past_run(server.logs, "stopped", "whole")
    for name in TABS:
        tab(page, name)
        expect(page.locator(f"#tab-{name.lower()}")).to_match_aria_snapshot(aria.CONTROLS[name])
        for role in ("button", "textbox", "combobox", "spinbutton", "checkbox", "slider", "radio"):
            for control in page.get_by_role(role).all():
                snapshot = control.aria_snapshot()
                assert '"' in snapshot.split("\n")[0], (name, snapshot)
        wanted, found = set(page.evaluate(aria.REACHABLE, name.lower())), set()
        for _ in range(len(wanted) + 10):
            page.keyboard.press("Tab")
            found.add(page.evaluate("document.activeElement.dataset.place"))
        assert wanted <= found, [page.locator(f"[data-place='{place}']").aria_snapshot() for place in wanted - found]
    shutil.rmtree(run)


def test_a_folder_is_found_by_browsing(open_page, server: Server) -> None:
    (server.folder / ".hidden").mkdir(exist_ok=True)
    page = open_page()
    state(page, "idle")
    page.get_by_role("button", name="Choose a folder").click()
    fill(page, "browse-place", server.folder)
    inside = page.locator("#browse-inside")
    expect(inside.get_by_role("button", name="images", exact=True)).to_be_visible()
    expect(inside).not_to_contain_text("hidden")
    inside.get_by_role("button", name="images", exact=True).click()
    place = page.locator("#browse-place input, #browse-place textarea").first
    expect(place).to_have_value(str(server.folder / "images"))
    page.locator("#browse-up-button").click()
    expect(place).to_have_value(str(server.folder))
    place.fill(f"{server.folder}/images/")
    page.locator("#browse-up-button").click()  # while what was typed is opened
    expect(inside.get_by_role("button", name="images", exact=True)).to_be_visible()
    expect(place).to_have_value(str(server.folder))
    fill(page, "browse-place", server.folder / "nowhere")
    expect(page.get_by_text("There is no such folder")).to_be_visible()
    fill(page, "browse-place", server.folder / "images")
    fill(page, "data_root", server.folder / "nowhere")
    expect(page.locator("#wrong-folder [role=alert]")).to_contain_text("There is no folder")
    # a folder that was typed is checked as one that was chosen
    fill(page, "data_root", make_images(server.folder / "typed", [(96, 96)] * 2))
    expect(page.locator("#wrong-folder")).to_have_text("")
    expect(page.locator("#dataset-grid img")).to_have_count(2)
    fill(page, "data_root", "")
    expect(inside).to_contain_text("4 images in this folder")
    page.locator("#browse-take-button").click()
    expect(page.locator("#data_root textarea")).to_have_value(str(server.folder / "images"))
    expect(page.locator("#dataset-grid img")).to_have_count(4)  # checked at once
    expect(page.locator("#browse-take-button")).to_be_hidden()
    a_base_model_is_found_beside_the_present_one(page, server)


def a_base_model_is_found_beside_the_present_one(page, server: Server) -> None:
    tab(page, "Settings")
    page.get_by_role("button", name="Choose a base model").click()
    inside = page.locator("#model-inside")
    model = inside.get_by_label("Models").get_by_role("button", name="model model folder")
    expect(model).to_be_visible()
    fill(page, "resume_ckpt", "/nowhere")
    model.click()
    expect(page.locator("#resume_ckpt textarea, #resume_ckpt input").first).to_have_value(str(server.folder / "model"))
    expect(inside).to_be_hidden()
    page.get_by_role("button", name="Choose a base model").click()
    inside.get_by_role("button", name="images", exact=True).click()
    expect(inside).to_contain_text("No models in this folder")
    wait_for_draft(server, "resume_ckpt", str(server.folder / "model"))


def test_prompts_are_shown_and_saved_as_the_users_own(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    tab(page, "Sampling")
    expect(page.locator("#prompts")).to_contain_text("a cat")
    flag = "getComputedStyle(document.querySelector('#sample_prompts [data-testid=block-info]'), '::after').content"
    assert "--sample_prompts" in page.evaluate(flag)
    fill(page, "prompts-steps", 7)
    page.locator("#prompts-sampler input").click()
    page.get_by_role("option", name="euler", exact=True).click()
    cell = page.locator("#prompts [role=gridcell]").nth(1)
    cell.click()
    expect(cell).to_be_focused()
    page.keyboard.type("blurry")
    expect(cell.locator("textarea, input")).to_have_value("blurry")
    page.keyboard.press("Enter")
    expect(page.locator("#prompts-unsaved")).to_contain_text("Not saved yet")
    wait_until(lambda: any("blurry" in table.rows[0] for table in server.context.prompt_drafts.values()))
    reload(page)
    tab(page, "Sampling")
    expect(page.locator("#prompts")).to_contain_text("blurry")
    expect(page.locator("#prompts-steps input")).to_have_value("7")
    page.locator("#save-prompts-button").click()
    own = server.folder / "user" / "sample_prompts.json"
    expect(page.locator("#sample_prompts input, #sample_prompts textarea").first).to_have_value(str(own))
    assert json.loads(own.read_text()) == {
        "scheduler": "euler",
        "num_inference_steps": 7,
        "samples": [{"prompt": "a cat", "negative_prompt": "blurry"}],
    }
    expect(page.locator("#prompts-unsaved")).not_to_contain_text("Not saved yet")
    fill(page, "sample_prompts", server.values["sample_prompts"])
    page.locator("#read-prompts-button").click()
    expect(page.locator("#prompts-steps input")).to_have_value("2")
    wait_for_draft(server, "sample_prompts", server.values["sample_prompts"])


def test_all_problems_are_listed_at_once_with_the_names_of_their_fields(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    tab(page, "Settings")
    fill(page, "batch_size", 0)
    fill(page, "project_name", "../evil")
    fill(page, "lr", "fast")
    fill(page, "resume_ckpt", "/nowhere/model")
    expect(page.locator("#train-button")).to_be_disabled()
    expect(page.locator("#missing")).to_have_text(
        "1 thing missing: a base model · /nowhere/model is not on this computer."
    )
    fill(page, "resume_ckpt", server.folder / "images")  # it is there, and no model
    page.locator("#train-button").click()
    box = page.locator("#problems")
    for name in ("batch_size", "project_name", "lr", "resume_ckpt"):
        expect(box).to_contain_text(f"({name})")
    expect(box).to_have_attribute("role", "alert")
    state(page, "idle")
    reload(page)
    state(page, "idle")
    tab(page, "Settings")
    expect(page.locator("#project_name input, #project_name textarea").first).to_have_value("../evil")
    expect(box).to_contain_text("(batch_size)", timeout=20_000)  # the form is filled field by field
    for name in ("batch_size", "project_name", "resume_ckpt"):
        fill(page, name, server.values.get(name, 2))
    expect(box).not_to_contain_text("(batch_size)")
    expect(box).to_contain_text("(lr)")
    fill(page, "lr", "")
    wait_for_draft(server, "lr", None)


def test_captions_are_edited_by_keys_saved_together_and_restored(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    page.locator("#check-button").click()
    expect(page.locator("#dataset-report")).to_contain_text("4 images can be used", timeout=60_000)
    expect(page.locator("#filter-chips .ed-pending")).to_have_count(0)
    chosen, caption = page.locator("#dataset-grid li.ed-chosen"), page.locator("#caption-text textarea")
    expect(caption).to_have_value("an image of number 0")
    page.locator("#dataset-grid").get_by_text("an image of number 0").click()
    page.keyboard.press("End")
    expect(caption).to_have_value("an image of number 3")
    page.keyboard.press("ArrowLeft")
    expect(caption).to_have_value("an image of number 2")
    expect(page.locator("#selected-image")).to_contain_text("96 x 64 → bucket 80 x 48")
    page.keyboard.press("Enter")
    expect(caption).to_be_focused()
    caption.fill("not meant")
    expect(page.locator("#caption-unsaved")).to_contain_text("02.png")
    page.locator("#undo-caption-button").click()
    expect(page.locator("#caption-unsaved")).not_to_contain_text("02.png")
    expect(caption).to_have_value("an image of number 2")
    caption.fill("typed for two")
    expect(page.locator("#undo-caption-button")).to_be_enabled()
    page.keyboard.press("Enter")
    expect(caption).to_have_value("an image of number 3")
    expect(page.locator("#caption-unsaved")).to_contain_text("02.png")
    expect(page.locator("#undo-caption-button")).to_be_disabled()  # nothing was typed for this image
    caption.fill("a <b>new</b> caption " * 20)
    expect(page.locator("#token-count")).to_contain_text("are ignored")
    caption.fill("a <b>new</b> caption")
    expect(page.locator("#token-count")).to_contain_text("11 of 75 tokens")
    page.keyboard.press("Shift+Enter")
    expect(caption).to_have_value("typed for two")
    expect(page.locator("#caption-unsaved")).to_contain_text("02.png, 03.png")
    page.keyboard.press("Control+s")
    expect(page.get_by_text("Saved 2 captions.")).to_be_visible()
    expect(page.locator("#caption-unsaved")).not_to_contain_text("02.png")
    files = [server.folder / "images" / f"0{number}.txt" for number in (2, 3)]
    assert [file.read_text() for file in files] == ["typed for two\n", "a <b>new</b> caption\n"]
    page.locator("#undo-caption-button").click()
    expect(page.locator("#dataset-grid")).to_contain_text("an image of number 3")
    expect(caption).to_have_value("an image of number 2")
    assert [file.read_text() for file in files] == ["an image of number 2", "an image of number 3"]
    for button in ("save-caption-button", "undo-caption-button"):
        expect(page.locator(f"#{button}")).to_be_disabled()
    reload(page)
    expect(page.locator("#dataset-grid img")).to_have_count(4)
    expect(chosen).to_have_count(1)
    the_check_is_out_of_date_while_the_folder_is_another(page)


def the_check_is_out_of_date_while_the_folder_is_another(page) -> None:
    stale, folders = page.get_by_text("press Check again"), page.locator("#data_root textarea")
    expect(stale).to_be_hidden()
    checked = folders.input_value()
    folders.fill(checked + "-not")
    expect(stale).to_be_visible()
    folders.fill(checked)
    expect(stale).to_be_hidden()
    tab(page, "Settings")
    fill(page, "max_epochs", 7)
    expect(page.locator("#forecast")).to_contain_text("steps in 7 epochs")


def test_many_captions_are_filtered_changed_and_restored_as_one(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    page.locator("#check-button").click()
    tiles = page.locator("#dataset-grid [data-image]")
    expect(tiles).to_have_count(4)
    expect(page.locator("#filter-chips .ed-pending")).to_have_count(0)
    page.locator("#filter-chips").get_by_role("button", name="Alone in its bucket").click()
    expect(tiles).to_have_count(2)
    page.get_by_role("button", name="Edit many captions").click()
    page.locator("#bulk-text input, #bulk-text textarea").first.fill("sks")
    page.locator("#bulk-preview-button").click()
    expect(page.locator("#bulk-preview")).to_contain_text("2 captions would change")
    expect(page.locator("#bulk-preview ins")).to_have_text(["sks, ", "sks, "])
    page.get_by_role("button", name="Change 2 captions").click()
    expect(tiles.filter(has_text="sks, an image")).to_have_count(2)
    expect(page.locator("#bulk-apply-button")).to_be_disabled()
    page.locator("#undo-caption-button").click()
    expect(tiles.filter(has_text="sks")).to_have_count(0)
    details = page.locator("#selected-image .ed-facts")
    expect(details).to_have_count(1)
    page.locator("#grid-search input, #grid-search textarea").first.fill("no such image")
    expect(details).to_have_count(0)
    expect(page.locator("#caption-text")).to_be_hidden()
    page.get_by_role("button", name="Show all").click()
    expect(tiles).to_have_count(4)
    expect(page.locator("#caption-text")).to_be_visible()
    images = server.folder / "images"
    assert sorted(path.suffix for path in images.iterdir()) == [".png"] * 4 + [".txt"] * 4


def test_the_memory_follows_the_form_and_is_made_to_fit_and_undone(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    tab(page, "Settings")
    reset(page)
    fill(page, "resume_ckpt", "")  # a reset keeps the base model
    page.locator("#card-choice input").click()
    page.get_by_role("option", name="24 GB", exact=True).click()
    plan, batch = page.locator("#memory-plan .ed-plan"), page.locator("#batch_size input")
    answer, undo = page.locator("#memory-answer"), page.locator("#undo-fit-button")
    expect(plan).to_have_attribute("data-verdict", "fits")
    fill(page, "batch_size", 16)
    expect(plan).to_have_attribute("data-verdict", "does not fit")
    expect(plan.locator("[role=img]")).to_have_attribute("aria-label", re.compile("activations 19"))
    expect(plan.locator(".ed-parts-legend")).to_contain_text("end of GPU memory 23.7")
    expect(answer).to_contain_text("Batch size 16 -> 10")
    expect(batch).to_have_value("16")
    page.locator("#fit-button").click()
    expect(batch).to_have_value("10")
    expect(plan).to_have_attribute("data-verdict", "fits")
    expect(answer).to_contain_text("Changed Batch size: 16 → 10.")
    undo.click()
    expect(batch).to_have_value("16")
    expect(undo).to_be_hidden()
    expect(answer).to_contain_text("Batch size 16 ->")
    fill(page, "batch_size", 2)
    expect(plan).to_have_attribute("data-verdict", "fits")
    expect(answer).to_contain_text("No changes needed")
    expect(page.locator("#memory-plan")).to_contain_text("8-bit Adam is counted")
    reload(page)
    tab(page, "Settings")
    expect(page.locator("#card-choice input")).to_have_value("24 GB")
    expect(plan).to_have_attribute("data-verdict", "fits")


def test_a_resolution_that_is_typed_and_is_none_is_reported(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    tab(page, "Settings")
    field = page.locator("#resolution input")
    field.fill("500")
    field.press("Tab")
    expect(page.locator("#settings-problems")).to_contain_text("choose 448 or 512")
    field.fill("576")
    field.press("Enter")
    field.press("Tab")
    expect(page.locator("#settings-problems")).to_have_count(0)
    page.get_by_role("button", name="Equivalent command").click()
    expect(page.locator("#equivalent-command textarea")).to_have_value(re.compile("--resolution 576"))


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
