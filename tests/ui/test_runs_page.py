"""Runs as a person sees them: filtered, named, compared, reported, tried and deleted."""

import re
from pathlib import Path

import pytest

from tests.ui.conftest import Server
from tests.ui.test_runs import recorded_run

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.ui.actions import fill, overflow, state, tab

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def runs(server: Server) -> list[Path]:
    """Two runs that were not trained."""
    return [recorded_run(server.logs, name, lr=lr) for name, lr in (("cat", 1e-4), ("dog", 2e-4))]


def choose(page, run: Path) -> None:
    page.locator(f"#runs-list [data-run={run.name}] button").click()
    expect(page.locator("#run-page article")).to_have_attribute("data-path", str(run))


def test_runs_are_filtered_named_and_their_page_has_curves_and_samples(open_page, server: Server, runs) -> None:
    page = open_page()
    state(page, "done", "idle")
    tab(page, "Resume")
    rows = page.locator("#runs-list li")
    expect(rows).to_have_count(2)
    choose(page, runs[0])
    expect(page.locator("#run-page svg").first).to_have_attribute("aria-label", re.compile("^Loss from step 1 to 20"))
    expect(page.locator("#run-page .ed-cell img")).to_have_count(2)
    expect(page.locator("#run-page .ed-cell img").last).to_have_js_property("naturalWidth", 64)
    page.get_by_role("button", name="Name and notes").click()
    fill(page, "run-name", "Whiskers")
    fill(page, "run-text", "the good one")
    page.locator("#save-notes-button").click()
    expect(rows.filter(has_text="Whiskers")).to_contain_text("the good one")
    expect(rows.filter(has_text="Whiskers")).to_contain_text(runs[0].name)
    page.locator("#runs-filter").fill("good")
    expect(page.locator("#runs-list li:visible")).to_have_count(1)
    page.locator("#refresh-button").click()
    expect(page.locator("#runs-list li:visible")).to_have_count(1)
    page.wait_for_timeout(1500)
    expect(page.locator("#run-page svg").first).to_have_attribute("aria-label", re.compile("^Loss from step 1 to 20"))
    expect(page.locator("#run-page .ed-cell img")).to_have_count(2)
    page.locator("#runs-filter").fill("nothing like it")
    expect(page.get_by_text("No run matches.")).to_be_visible()
    page.locator("#runs-filter").fill("")
    page.locator("#report-button").click()
    expect(page.locator("#run-answer")).to_contain_text("report.html")
    report = open_page(url=f"file://{runs[0]}/report.html")
    expect(report.get_by_role("heading", name="Whiskers")).to_be_visible()
    expect(report.locator(".ed-panel svg").first).to_have_attribute("aria-label", re.compile("^Loss from step 1 to 20"))
    assert report.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert overflow(report) <= 0


def test_a_step_of_any_run_can_be_used(open_page, server: Server, runs) -> None:
    page = open_page()
    tab(page, "Resume")
    choose(page, runs[0])
    page.locator("#run-page .ed-cell").first.click()
    page.get_by_role("dialog", name="Sample").get_by_role("button", name="Use this step").click()
    expect(page.locator("#run-answer")).to_contain_text("step 10, the step of the sample")
    expect(page.locator("#run-answer")).to_be_in_viewport()
    expect(page.locator("#run-page .ed-checkpoints li").last).to_contain_text("protected")
    page.locator("#run-page .ed-checkpoints li").last.get_by_role("button", name="Continue from it").click()
    expect(page.locator("#resume_ckpt textarea, #resume_ckpt input").first).to_have_value(
        re.compile("cat-ep01-gs00010$")
    )


def test_two_runs_are_compared_and_the_boxes_stay_checked(open_page, server: Server, runs) -> None:
    page = open_page()
    tab(page, "Resume")
    for run in runs:
        expect(page.locator("#compare-button")).to_be_disabled()
        page.locator(f"[data-pick={run.name}]").check()
    page.locator("#compare-button").click()
    expect(page.locator("#compare .ed-line").first).to_be_visible()
    page.locator("#refresh-button").click()
    page.locator("#compare-button").click()
    page.wait_for_timeout(1500)
    shown = page.locator("#compare")
    expect(shown.locator("table")).to_contain_text("0.0002")
    expect(shown.locator("svg").first).to_be_visible()
    expect(shown.locator(".ed-line").first).to_be_visible()
    expect(shown.locator(".ed-column")).to_have_count(2)
    expect(shown.locator(".ed-cell img")).to_have_count(2)
    for run in runs:
        expect(page.locator(f"[data-pick={run.name}]")).to_be_checked()
    page.locator(f"[data-pick={runs[0].name}]").uncheck()
    expect(page.locator("#compare-button")).to_be_disabled()
    phone = open_page(390, 844, has_touch=True, is_mobile=True)
    tab(phone, "Resume")
    for run in runs:
        phone.locator(f"[data-pick={run.name}]").check()
    phone.locator("#compare-button").click()
    expect(phone.locator("#compare .ed-column")).to_have_count(2)
    assert overflow(phone) <= 0
    page.locator("#close-compare-button").click()
    expect(shown.locator("article")).to_have_count(0)


def test_checkpoints_and_runs_are_deleted_after_questions(open_page, server: Server, runs) -> None:
    page = open_page()
    tab(page, "Resume")
    choose(page, runs[1])
    parts = page.locator("#run-page .ed-checkpoints li")
    expect(parts).to_have_count(2)
    parts.last.get_by_role("button", name="Export single file").click()
    expect(page.locator("#checkpoint-work")).to_contain_text("Single file of")
    expect(page.locator("#checkpoint-work")).to_be_in_viewport()
    parts.last.get_by_role("button", name="Delete").click()
    expect(page.locator("#delete-question")).to_contain_text("This frees 5.0 kB")
    expect(page.locator("#delete-question")).to_be_in_viewport()
    page.locator("#keep-run-button").click()
    expect(page.locator("#delete-question")).to_be_hidden()
    parts.last.get_by_role("button", name="Delete").click()
    page.locator("#confirm-delete-button").click()
    expect(parts).to_have_count(1)
    expect(page.get_by_text(re.compile("^Deleted .* are free again"))).to_be_visible()
    server.context.service.show_last_run(server.logs)
    state(page, "done")
    page.locator("#delete-run-button").click()
    page.locator("#confirm-delete-button").click()
    expect(page.locator("#confirm-delete-button")).to_have_text("Delete for good")
    assert runs[1].is_dir()
    page.locator("#confirm-delete-button").click()
    expect(page.locator("#runs-list li")).to_have_count(1)
    assert not runs[1].exists()
    expect(page.get_by_text(f"Deleted {runs[1].name}")).to_be_visible()
    state(page, "idle")
