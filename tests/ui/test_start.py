"""The first screen, as someone sees it who opens the page for the first time."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ed2.app.user_files import SHIPPED, preset_values
from tests.tiny import make_images, make_model
from tests.ui.conftest import Server, serving

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Route, expect

from tests.ui.actions import fill, overflow, state, tab, wait_for_draft

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]
STEP_BUTTONS = ["Choose images", "Choose a base model", "Plan for a GPU", "Review settings"]
SHORT = {"max_epochs": 1, "batch_size": 24, "no_save_ckpt": True, "sample_prompts": ""}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page as it is opened for the first time, with a demo of a few steps."""
    folder = tmp_path_factory.mktemp("first")
    preset = folder / "demo.json"
    preset.write_text(json.dumps({**preset_values(SHIPPED / "demo.json"), **SHORT}))
    with serving(folder, {"logdir": str(folder / "logs")}, demo=preset) as server:
        yield server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base") / "model")


def field(page, name: str):
    return page.locator(f"#{name} input, #{name} textarea").first


def test_nothing_is_offered_before_the_state_is_known(open_page, server: Server) -> None:
    page = open_page(url="about:blank")
    held: list[Route] = []
    is_loading = True

    def hold(route: Route) -> None:
        held.append(route) if is_loading and route.request.method == "POST" else route.continue_()

    page.route("**", hold)
    page.goto(server.url)
    expect(page.locator("#status")).to_contain_text("Loading")
    for name in ("train", "queue", "pause", "stop"):
        expect(page.locator(f"#{name}-button")).to_be_disabled()
    expect(page.locator("#start-demo-button")).to_be_hidden()
    is_loading = False
    for route in held:
        route.continue_()
    state(page, "idle")
    expect(page.locator("#start-demo-button")).to_be_visible()


def test_from_the_first_start_to_a_trained_demo_by_presses_alone(open_page, server: Server) -> None:
    page = open_page(390, 844)
    state(page, "idle")
    expect(page.get_by_role("heading", level=1)).to_have_text("EveryDream with a face")
    expect(page.locator("#tab-start")).to_be_visible()
    expect(page.locator("#train-button")).to_be_disabled()
    expect(page.locator("#missing")).to_have_text("2 things missing: images and a base model")
    expect(page.locator("#start-steps li")).to_have_count(4)
    expect(page.locator("#start-steps [data-step=done]")).to_have_count(0)
    assert overflow(page) <= 0
    page.locator("#start-demo-button").click()
    expect(page.locator("#tab-train")).to_be_visible()
    state(page, "done")
    expect(page.locator("#log-tail")).to_contain_text("all epochs are done")
    page.get_by_role("button", name="EveryDream with a face").click()
    expect(page.locator("#start-demo-done")).to_contain_text("The demo is trained.")
    expect(page.locator("#start-demo-button")).to_have_class(re.compile("secondary"))
    expect(page.locator("#start-train-button")).to_have_class(re.compile("primary"))
    tab(page, "Settings")
    expect(field(page, "project_name")).to_have_value("myproj")
    assert server.context.form_values().get("resolution", 512) == 512


def test_new_images_begin_with_fresh_settings_after_the_demo_until_the_question_is_answered(
    open_page, server: Server, model: Path
) -> None:
    images = make_images(server.folder / "50_cats", [(96, 96)] * 30)
    server.begin_with()
    page = open_page()
    state(page, "done")
    tab(page, "Dataset")
    expect(page.locator("#demo-question-dataset")).to_be_hidden()
    fill(page, "data_root", images)
    expect(page.locator("#demo-question-dataset")).to_be_visible()
    wait_for_draft(server, "resolution", 512)
    page.locator("#demo-settings-dataset").click()
    wait_for_draft(server, "resolution", 64)
    wait_for_draft(server, "data_root", [str(images)])
    expect(page.locator("#demo-question-dataset")).to_be_hidden()
    tab(page, "Settings")
    expect(page.locator("#demo-question-settings")).to_be_hidden()
    expect(field(page, "lr")).to_have_value("0.0005")
    fill(page, "resume_ckpt", model)  # other images, and another base: the demo's settings were wanted
    wait_for_draft(server, "resume_ckpt", str(model))
    wait_for_draft(server, "resolution", 64)


def test_settings_of_the_demo_that_were_loaded_do_not_stay_with_other_images(open_page, server: Server) -> None:
    (server.folder / "user" / "demo.json").unlink(missing_ok=True)
    server.begin_with(**preset_values(server.context.demo))
    page = open_page()
    state(page, "done")
    tab(page, "Dataset")
    fill(page, "data_root", server.folder / "50_cats")
    wait_for_draft(server, "resolution", 512)
    wait_for_draft(server, "project_name", "myproj")
    expect(page.locator("#demo-question-dataset")).to_be_visible()
    page.locator("#fresh-settings-dataset").click()
    expect(page.locator("#demo-question-dataset")).to_be_hidden()
    wait_for_draft(server, "resolution", 512)


def test_four_steps_lead_to_a_run_with_suggested_values(open_page, server: Server, model: Path) -> None:
    images = server.folder / "50_cats"
    if not images.exists():  # the tests above may not have run
        make_images(images, [(96, 96)] * 30)
    server.begin_with(data_root=["input"], resume_ckpt="", resolution=64, sample_prompts="")
    page = open_page()
    state(page, "idle", "done")
    page.get_by_role("button", name="EveryDream with a face").click()
    steps = page.locator("#start-steps")
    page.locator("#start-train-button").click()  # leads to what is missing
    expect(page.locator("#tab-dataset")).to_be_visible()
    fill(page, "data_root", images)
    page.locator("#check-button").click()
    expect(page.locator("#missing")).to_have_text("1 thing missing: a base model")
    page.locator("#missing").get_by_role("button").click()
    expect(field(page, "resume_ckpt")).to_be_focused()
    fill(page, "resume_ckpt", model)
    expect(page.locator("#train-button")).to_be_enabled()
    page.get_by_role("button", name="EveryDream with a face").click()
    expect(steps).to_contain_text("30 images")
    expect(steps.get_by_role("button")).to_have_text(STEP_BUTTONS)
    steps.get_by_role("button", name="Plan for a GPU").click()
    expect(page.locator("#card-choice input")).to_be_focused()
    page.locator("#card-choice input").click()
    page.get_by_role("option", name="12 GB", exact=True).click()
    expect(page.locator("#memory-plan")).to_contain_text("11.7 GB free on a card with 12 GB")
    page.get_by_role("button", name="EveryDream with a face").click()
    expect(steps).to_contain_text("Planned for a card with 12 GB.")
    expect(steps).to_contain_text(re.compile(r"30 images, SD 1.x, 12 GB: [\d,]+ steps, [\d.]+ of 11.7 GB"))
    expect(page.locator("#start-values")).to_contain_text("50 repeats x 5 epochs are 250 epochs")
    page.locator("#start-values summary").click()
    expect(page.locator("#start-values")).to_contain_text("at most a tenth of 30 images")
    page.locator("#suggested-apply-button").click()
    wait_for_draft(server, "max_epochs", 60)
    wait_for_draft(server, "project_name", "cats_sd15")
    expect(page.locator("#start-values")).to_contain_text("The form has the suggested values.")
    page.locator("#suggested-undo-button").click()
    wait_for_draft(server, "max_epochs", 300)
    wait_for_draft(server, "project_name", "myproj")
    expect(page.locator("#start-train-button")).to_have_text("Start training")
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
