"""The resume test on the page."""

import re

import pytest

from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.ui.actions import fill, state, tab

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_resume_test_explains_problems_and_can_be_stopped(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    told = page.locator("#resume-test")
    tab(page, "Settings")
    fill(page, "resume_ckpt", "/not/there")
    tab(page, "Resume")
    page.locator("#test-resume-button").click()
    expect(told).to_have_attribute("data-state", "failed", timeout=60_000)
    expect(told).to_contain_text("there is no model /not/there")
    tab(page, "Settings")
    fill(page, "resume_ckpt", str(server.values["resume_ckpt"]))
    tab(page, "Resume")
    page.locator("#test-resume-button").click()
    expect(told).to_contain_text(re.compile("Part 1 of 3"), timeout=60_000)
    expect(page.locator("#test-resume-button")).to_be_disabled()
    page.locator("#stop-test-button").click()
    expect(told).to_contain_text("The test was stopped", timeout=60_000)
    expect(page.locator("#test-resume-button")).to_be_enabled()
    assert not list((server.folder / "logs").glob(".test-resume-*"))
