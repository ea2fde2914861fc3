"""The queue on the page: adding, editing, reordering, running; and what a stranger may send to it."""

import re
from pathlib import Path

import gradio as gr
import pytest

from ed2.app.page.folders import Roots
from ed2.app.queue.store import RunQueue
from ed2.app.service import TrainerService
from ed2.app.user_files import UserFiles
from ed2.ui.app import OwnerPage
from ed2.ui.context import Context
from ed2.ui.queue_html import queue_html
from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.ui.actions import fill, overflow, state, tab

REQUEST = gr.Request(session_hash="1")


@pytest.fixture
def page(tmp_path: Path) -> OwnerPage:
    context = Context(service=TrainerService(), user=UserFiles(tmp_path / "user"), roots=Roots((tmp_path,)))
    return OwnerPage(context)


def pressed(**data: object) -> gr.EventData:
    return gr.EventData(None, data)


@pytest.mark.parametrize(
    "data",
    [{}, {"queued": "1", "action": "remove"}, {"queued": 7, "action": "remove"}, {"queued": [1]}, {"queued": True}],
    ids=str,
)
def test_a_run_that_is_not_in_the_queue_cannot_be_changed(page: OwnerPage, data: dict[str, object]) -> None:
    panel = page.resume.queue
    with pytest.raises(gr.Error, match="no longer in the queue"):
        panel.press(REQUEST, pressed(**data), {})


def test_a_form_outside_of_the_allowed_folders_is_not_queued(page: OwnerPage, tmp_path: Path) -> None:
    panel = page.resume.queue
    held = {control: control.value for control in [*page.form.inputs, *page.sampling.outputs]}
    shown = panel.add(REQUEST, {**held, page.form.controls["data_root"]: "/etc"})
    assert any("cannot be opened from here" in str(text) for text in shown.values())
    assert not (tmp_path / "user" / "queue").exists()


def test_the_read_only_queue_has_no_button_and_no_path(tmp_path: Path) -> None:
    queue = RunQueue(tmp_path)
    queue.add({"project_name": "ok"})
    queue.take()
    queue.ended(1, "failed", f"{tmp_path}/secret is gone")
    html = queue_html(queue.runs(), is_run=False, hide=lambda text: text.replace(str(tmp_path), "…"), is_owner=False)
    assert "<button" not in html and str(tmp_path) not in html and "Failed" in html


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_runs_are_queued_edited_reordered_and_trained(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    tab(page, "Settings")
    for name in ("first", "second", "third"):
        fill(page, "project_name", name)
        page.locator("#queue-button").click()
        expect(page.locator("#queue-line")).to_contain_text(f"{('first', 'second', 'third').index(name) + 1} waiting")
    fill(page, "batch_size", 0)
    page.locator("#queue-button").click()
    expect(page.locator("#problems")).to_contain_text("(batch_size)")
    fill(page, "batch_size", 2)
    fill(page, "project_name", "mine")
    page.locator("#queue-line button").click()
    rows = page.locator("#queue li")
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Move up: run 3").click()
    expect(rows.locator("strong")).to_have_text(["first", "third", "second"])
    rows.filter(has_text="second").get_by_role("button", name="Edit").click()
    expect(page.locator("#project_name input, #project_name textarea").first).to_have_value("second")
    expect(page.locator("#queue-button")).to_have_text("Save run 2")
    fill(page, "project_name", "changed")
    fill(page, "max_epochs", 1)
    page.locator("#queue-button").click()
    expect(rows.locator("strong")).to_have_text(["first", "third", "changed"])
    expect(page.locator("#queue-button")).to_have_text("Add to queue")
    tab(page, "Settings")
    expect(page.locator("#project_name input, #project_name textarea").first).to_have_value("mine")
    expect(page.locator("#max_epochs input")).to_have_value("4")
    tab(page, "Resume")
    rows.filter(has_text="first").get_by_role("button", name="Remove").click()
    expect(rows).to_have_count(2)
    phone = open_page(390, 844, has_touch=True, is_mobile=True)
    tab(phone, "Resume")
    expect(phone.locator("#queue li")).to_have_count(2)
    assert overflow(phone) <= 0
    page.locator("#run-queue-button").click()
    state(page, "preparing", "training", "sampling")
    expect(phone.locator("#queue li").first).to_have_attribute("data-state", re.compile("running|done"))
    expect(rows.first).to_have_attribute("data-state", "done", timeout=120_000)
    expect(rows.last).to_have_attribute("data-state", "done", timeout=120_000)
    names = sorted(path.name.rpartition("_")[0] for path in server.logs.iterdir())
    assert names == ["changed", "third"]
    page.locator("#clear-queue-button").click()
    expect(page.locator("#queue")).to_contain_text("The queue is empty")
