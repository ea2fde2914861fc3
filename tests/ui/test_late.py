"""What a person does while an answer is awaited is never undone by it."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Request, Route, expect

from tests.ui.actions import choose_preset, fill, reload, state, tab, wait_for_draft

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@contextmanager
def asked_late(page: Any, question: str, is_meant: Callable[[Request], bool] = lambda request: True) -> Iterator[None]:
    """Let the first question that is meant reach the program only when all else was done."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        if held or not is_meant(route.request):
            route.continue_()
        else:
            held.append(route)

    page.route(question, hold)
    yield
    for _ in range(200):  # the page may ask a moment after what caused it
        if held:
            break
        page.wait_for_timeout(50)
    assert held
    held[0].continue_()
    page.unroute(question)


def test_a_caption_that_is_typed_while_another_is_saved_stays_and_a_reload_keeps_it(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    page.locator("#check-button").click()
    caption = page.locator("#caption-text textarea")
    expect(caption).to_have_value("an image of number 0")
    expect(page.locator("#filter-chips .ed-pending")).to_have_count(0)
    caption.fill("another caption")
    with asked_late(page, "**/queue/join*"):
        page.locator("#save-caption-button").click()
        page.get_by_role("button", name="02.png:").click()
        expect(caption).to_have_value("an image of number 2")
        caption.fill("typed meanwhile")
    expect(page.get_by_text("Saved the caption of 00.png.")).to_be_visible()
    expect(page.locator("#dataset-grid")).to_contain_text("another caption")
    expect(caption).to_have_value("typed meanwhile")
    expect(page.locator("#dataset-grid li.ed-chosen")).to_have_attribute("data-number", "2")
    expect(page.locator("#caption-unsaved")).to_contain_text("02.png")
    reload(page)  # while the box is still being typed in
    page.get_by_role("button", name="02.png:").click()
    expect(caption).to_have_value("typed meanwhile")


def test_a_field_and_json_that_are_typed_while_a_preset_is_loaded_stay(open_page, server: Server) -> None:
    page = open_page()
    state(page, "idle")
    tab(page, "Settings")
    page.get_by_role("button", name="Raw JSON").click()
    raw = page.locator("#raw-json textarea")
    expect(raw).to_have_value(re.compile("max_epochs"))
    choose_preset(page, "Demo")
    with asked_late(page, "**/queue/join*"):
        page.locator("#load-preset-button").click()
        with asked_late(page, "**/run/predict*", lambda request: ",78," in (request.post_data or "")):  # of the form
            fill(page, "max_epochs", 78)
            raw.fill('{"lr": "half typed')
    wait_for_draft(server, "project_name", "demo")
    wait_for_draft(server, "max_epochs", 78)
    expect(page.locator("#max_epochs input")).to_have_value("78")
    expect(raw).to_have_value('{"lr": "half typed')


TYPE_AT_ONCE = """
async (button, [name, text]) => {
  const find = () => document.querySelector(`#${name} input, #${name} textarea`);
  const typed = new Promise(resolve => {
    const type = () => {
      const field = find();
      if (!field?.checkVisibility({ visibilityProperty: true })) return false;
      const { set } = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), 'value');
      set.call(field, text);
      field.dispatchEvent(new Event('input', { bubbles: true }));
      resolve();
      return true;
    };
    const watch = { childList: true, subtree: true, attributes: true };
    new MutationObserver((_, observer) => type() && observer.disconnect()).observe(document.body, watch);
  });
  button.click();
  await typed;
  for (let frame = 0; frame < 30; frame++) await new Promise(requestAnimationFrame);
  return find().value;
}
"""
"""Presses a button and types into a field as soon as it can be seen; returns what the field holds afterwards."""


def test_what_is_typed_into_a_part_that_was_just_opened_stays(open_page) -> None:
    page = open_page()
    state(page, "idle")
    for role, part, name, text in (
        ("button", "Choose a folder", "browse-place", "/typed"),
        ("tab", "Settings", "max_epochs", "77"),
        ("tab", "Sampling", "prompts-steps", "9"),
    ):
        assert page.get_by_role(role, name=part).evaluate(TYPE_AT_ONCE, [name, text]) == text, name
