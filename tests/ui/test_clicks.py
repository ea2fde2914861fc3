"""Whatever is pressed and however often the page is loaded anew, the trained bytes are those of an undisturbed run."""

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.runs import differing
from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Error, expect

from tests.ui.actions import reload, state, tab

pytestmark = [pytest.mark.slow]
PRESSED = [
    "#pause-button",
    "#pause-button",
    "#save-now-button",
    "#sample-now-button",
    "[role=tab]",
    "#loss-chart input",
    "#refresh-button",
    "#check-button",
    "#runs-list button",
    "label.selected",
]


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_random_clicks_and_four_reloads_leave_the_bytes_of_an_undisturbed_run(open_page, server: Server) -> None:
    clicked = disturbed(open_page, server, clicks=24, reloads=4, epochs=40)
    assert clicked["#pause-button"] and clicked["#stop-button"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_random_clicks_and_a_hundred_reloads_leave_those_bytes(open_page, server: Server) -> None:
    clicked = disturbed(open_page, server, clicks=1800, reloads=120, epochs=1500)  # three in five hit something
    print(f"{sum(clicked.values())} hits of 1800 clicks: {clicked}")
    assert sum(clicked.values()) >= 1000


def disturbed(open_page: Any, server: Server, *, clicks: int, reloads: int, epochs: int) -> dict[str, int]:
    """Train undisturbed, and again while pressing whatever is there; gives how often what was pressed meanwhile."""
    service = server.context.service
    prompts = server.folder / "quick.json"
    prompts.write_text(json.dumps({"num_inference_steps": 2, "samples": [{"prompt": "a cat", "cfgs": [1]}]}))
    form = {"max_epochs": epochs, "flip_p": 0.5, "sample_prompts": str(prompts)}
    server.begin_with(**form, project_name="straight")
    service.start(server.context.form_values())
    assert service.wait(1800)
    straight = service.snapshot().checkpoint
    server.begin_with(**form, project_name="disturbed")
    page = open_page()
    state(page, "done")
    page.locator("#train-button").click()
    state(page, "sampling", "training")
    clicked = press_at_random(page, clicks=clicks, reloads=reloads)
    finish(page)
    checkpoint = service.snapshot().checkpoint
    assert straight and checkpoint and Path(checkpoint).parents[1].name.startswith("disturbed_")
    assert differing(straight, checkpoint) == []
    return clicked


def press_at_random(page: Any, *, clicks: int, reloads: int) -> dict[str, int]:
    chance, clicked = random.Random(5), dict.fromkeys([*PRESSED, "#stop-button", "#continue-button"], 0)
    # The run is paused before anything else: it cannot be done before it is stopped for the first time.
    fixed = {0: "#pause-button", 1: "#stop-button", clicks // 2: "#stop-button", clicks * 3 // 4: "#stop-button"}
    for number in range(clicks):
        if number % (clicks // reloads) == 2:
            reload(page)
            state(page, "preparing", "sampling", "training", "paused", "stopping", "stopped", "done")
        go_on_if_stopped(page, clicked)
        wanted = fixed.get(number) or chance.choice(PRESSED)
        found = []
        with contextlib.suppress(Error):  # another tab was opened in between, or a list drawn anew
            found = [e for e in page.locator(wanted).all() if e.is_visible() and e.is_enabled(timeout=3000)]
            if found:
                chance.choice(found).click(timeout=3000)
        if found:
            clicked[wanted] += page.locator("#status").get_attribute("data-state") != "done"
    return clicked


def go_on_if_stopped(page: Any, clicked: dict[str, int]) -> None:
    """Continue a run that was stopped, from the Resume tab, or start again one that has no checkpoint yet."""
    if page.locator("#status").get_attribute("data-state") not in ("stopping", "stopped"):
        return
    state(page, "stopped")
    tab(page, "Resume")
    newest = page.locator("#runs-list li").first
    expect(newest).to_have_attribute("data-state", "stopped")
    if "can be resumed" in newest.inner_text():
        newest.get_by_role("button").click()
        expect(page.locator("#run-choice input")).to_have_value(str(newest.get_attribute("data-run")))
        page.locator("#continue-button").click()
    else:
        page.locator("#train-button").click()
    clicked["#continue-button"] += 1
    state(page, "preparing", "sampling", "training")


def finish(page: Any) -> None:
    go_on_if_stopped(page, {"#continue-button": 0})
    while page.locator("#status").get_attribute("data-state") != "done":
        if page.locator("#status").get_attribute("data-state") == "paused":
            page.locator("#pause-button").click()
        page.wait_for_timeout(500)
        assert page.locator("#status").get_attribute("data-state") not in ("failed", "stopped")
