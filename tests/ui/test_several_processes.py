"""A run in two processes, on CPUs, as a person sees and controls it on the page."""

import re

import pytest

from tests.app.test_remote import processes
from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.ui.actions import state, tab

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_run_in_two_processes_is_paused_sampled_resumed_and_stopped_on_the_page(open_page, server: Server) -> None:
    server.begin_with(num_processes=2, max_epochs=10_000)
    page = open_page()
    state(page, "idle")
    page.locator("#train-button").click()
    state(page, "training", seconds=200)
    page.locator("#pause-button").click()
    state(page, "paused")
    assert len(processes()) == 2
    step = int(page.locator("#status").get_attribute("data-step"))
    assert step >= 1
    page.locator("#sample-now-button").click()
    expect(page.get_by_role("button", name=f"step {step}, CFG 4: a cat")).to_be_visible()
    state(page, "paused")
    page.locator("#pause-button").click()
    expect(page.locator("#status")).not_to_have_attribute("data-step", str(step))
    page.locator("#stop-button").click()
    state(page, "stopped")
    expect(page.locator("#your-model")).to_contain_text("interrupted-tiny")
    tab(page, "Resume")
    card = page.locator("#runs-list li").first
    expect(card).to_have_attribute("data-state", "stopped")
    expect(card).to_contain_text(re.compile(r"step \d+ of 20,000"))
    expect(card).to_contain_text("can be resumed")
