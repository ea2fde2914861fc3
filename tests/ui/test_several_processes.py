"""A queued run in two processes, on CPUs, as a person sees and controls it on the page."""

import re

import pytest

from tests.app.test_remote import processes
from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.ui.actions import state, tab

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_queued_run_in_two_processes_is_paused_sampled_resumed_and_stopped(open_page, server: Server) -> None:
    server.begin_with(num_processes=2, max_epochs=10_000)
    page = open_page()
    state(page, "idle")
    page.locator("#queue-button").click()
    expect(page.locator("#queue-line")).to_contain_text("1 waiting")
    tab(page, "Resume")
    page.locator("#run-queue-button").click()
    state(page, "training", seconds=200)
    tab(page, "Train")
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
    require_stopped(server)
    tab(page, "Resume")
    card = page.locator("#runs-list li").first
    expect(card).to_have_attribute("data-state", "stopped")
    expect(card).to_contain_text(re.compile(r"step \d+ of 20,000"))
    expect(card).to_contain_text("can be resumed")


def require_stopped(server: Server) -> None:
    """The queue stops with its run, and would continue it."""
    service, queue = server.context.service, server.context.queue
    assert service.wait(60) and not processes()
    assert not service.is_queue_wanted
    (run,) = queue.runs()
    assert (run.state, run.folder) == ("stopped", str(service.snapshot().run_dir))
    assert queue.start_values(run)["resume_ckpt"] == run.folder
