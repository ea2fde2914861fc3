"""A run as a person sees it: from opening the page to its end, stopped, in two browsers."""

import re
from pathlib import Path

import pytest

from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.ui.actions import fill, state, tab

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_run_from_opening_the_page_to_a_resumable_entry(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    tab(page, "Settings")
    fill(page, "project_name", "creature")
    fill(page, "max_epochs", 4)
    page.locator("#train-button").click()
    expect(page.locator("#tab-train")).to_be_visible()
    state(page, "preparing", "sampling", "training")
    expect(page.locator("#train-button")).to_be_disabled()
    page.reload()
    state(page, "preparing", "sampling", "training", "done")
    state(page, "done")
    total = str(4 * 3)
    expect(page.locator("#status")).to_have_attribute("data-step", total)
    expect(page.locator("#status")).to_have_attribute("data-saving", "false")
    tab(page, "Train")
    expect(page.locator("#loss-chart svg .line")).to_have_count(1)
    expect(page.locator("#memory-card")).to_contain_text("Computer")
    expect(page.locator("#log-tail")).to_contain_text("all epochs are done")
    expect(page.locator("#samples-gallery img")).to_have_count(2)
    for picture in page.locator("#samples-gallery img").all():
        picture.scroll_into_view_if_needed()
        expect(picture).to_have_js_property("complete", True)
        assert picture.evaluate("image => image.naturalWidth") > 0
    tab(page, "Resume")
    card = page.locator("#runs-list li").first
    expect(card).to_contain_text("creature_")
    expect(card).to_contain_text(re.compile(f"done\\s+step {total} of {total}"))
    expect(card).to_contain_text("can be continued")


def test_each_sample_is_fetched_once_and_small(open_page, server: Server) -> None:
    page = open_page()
    state(page, "done", "idle")
    tab(page, "Train")
    expect(page.locator("#samples-gallery img")).to_have_count(2)
    for picture in page.locator("#samples-gallery img").all():
        picture.scroll_into_view_if_needed()
    page.wait_for_timeout(3000)
    addresses = [url for url in page.watched.requests if "/pictures-" in url]
    assert len(addresses) == len(set(addresses)) == 2
    assert all(url.endswith(".webp") for url in addresses)


def test_an_idle_page_is_sent_nothing_but_short_answers(open_page, server: Server) -> None:
    page = open_page()
    state(page, "done", "idle", "stopped")
    sizes: list[int] = []
    page.on("response", lambda r: sizes.append(len(r.body())) if r.request.method == "POST" else None)
    page.wait_for_timeout(6000)
    assert sizes
    assert max(sizes) < 4000


def test_two_browsers_see_one_run_and_stop_is_obeyed(open_page, server: Server) -> None:
    runs = len(list((server.folder / "logs").glob("*")))
    page, phone = open_page(), open_page(390, 844, has_touch=True, is_mobile=True)
    state(page, "done", "idle")
    tab(page, "Settings")
    fill(page, "max_epochs", 3000)
    page.locator("#train-button").click()
    state(phone, "preparing", "sampling", "training")
    expect(phone.locator("#train-button")).to_be_disabled()
    state(page, "training")
    page.locator("#pause-button").click()
    state(phone, "paused")
    expect(phone.locator("#pause-button")).to_have_text("Continue")
    tab(page, "Train")
    page.locator("#save-now-button").click()
    expect(page.locator("#log-tail")).to_contain_text(re.compile("saved [a-z]+-ep"), timeout=90_000)
    phone.locator("#pause-button").click()
    state(page, "training")
    phone.locator("#stop-button").click()
    state(page, "stopped")
    state(phone, "stopped")
    expect(page.locator("#status")).to_have_attribute("data-saving", "false")
    assert len(list((server.folder / "logs").glob("*"))) == runs + 1
    newest = max((server.folder / "logs").iterdir(), key=lambda path: path.stat().st_mtime)
    assert any(path.name.startswith("interrupted-") for path in (newest / "ckpts").iterdir())


def test_a_stopped_run_goes_on_from_the_tab_resume(open_page, server: Server) -> None:
    page = open_page()
    state(page, "stopped")
    tab(page, "Resume")
    expect(page.locator("#runs-list li").first).to_have_attribute("data-state", "stopped")
    before = int(page.locator("#status").get_attribute("data-step") or 0)
    page.locator("#continue-button").click()
    state(page, "training")
    expect(page.locator("#tab-train")).to_be_visible()
    page.locator("#stop-button").click()
    state(page, "stopped")
    assert int(page.locator("#status").get_attribute("data-step") or 0) >= before
    assert Path(str(server.context.service.snapshot().run_dir)).parent == server.folder / "logs"


def test_leaving_without_saving_is_offered_at_the_second_press(open_page, server: Server) -> None:
    page = open_page()
    state(page, "stopped")
    expect(page.locator("#leave-button")).to_have_count(0)
    page.locator("#train-button").click()
    page.locator("#stop-button").click()
    state(page, "stopping", "stopped")
    state(page, "stopped")
    expect(page.locator("#train-button")).to_be_enabled()
