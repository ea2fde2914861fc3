"""What a person does on the page."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import expect

PATIENCE_SECONDS = 90.0
CUT_OFF = re.compile("AbortError|Connection errored out|Failed to fetch")
"""What a page says of answers that it was waiting for when it was loaded anew."""
ASKED = "queue/join"
NUMBER_OF = "name => window.gradio_config.components.find(component => component.props.elem_id === name).id"


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def state(page: Any, *names: str, seconds: float = PATIENCE_SECONDS) -> None:
    pattern = re.compile(f"^({'|'.join(names)})$")
    expect(page.locator("#status")).to_have_attribute("data-state", pattern, timeout=seconds * 1000)


def reload(page: Any) -> None:
    """Load the page anew; what it says of answers that this cuts off is no complaint."""
    before = len(page.watched.complaints)
    page.reload()
    page.watched.complaints[before:] = [t for t in page.watched.complaints[before:] if not CUT_OFF.search(t)]


@contextmanager
def answered_late(page: Any, button: str) -> Iterator[None]:
    """Press a button whose question reaches the program only after what is done meanwhile.

    Until its answer was worked in: that is, until what follows it is asked. What is done meanwhile asks something too.
    """
    number = page.evaluate(NUMBER_OF, button)
    held: list[Any] = []

    def is_it(request: Any) -> bool:
        return ASKED in request.url and request.post_data_json["trigger_id"] == number

    def hold(route: Any) -> None:
        held.append(route) if not held and is_it(route.request) else route.continue_()

    page.route(f"**/{ASKED}*", hold)
    with page.expect_request(is_it):
        page.locator(f"#{button}").click()
    with page.expect_request(f"**/{ASKED}*"):
        yield
    with page.expect_request(f"**/{ASKED}*"):
        held[0].continue_()
    page.unroute(f"**/{ASKED}*")


def fill(page: Any, name: str, value: object) -> None:
    field = page.locator(f"#{name} input, #{name} textarea").first
    field.fill(str(value))
    field.press("Tab")


def choose_preset(page: Any, name: str) -> None:
    page.locator("#preset-choice input").click()
    page.get_by_role("option", name=re.compile(f"^{name}")).click()


def overflow(page: Any) -> int:
    """Pixels by which the page is wider than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not is_so():
        time.sleep(0.1)
    assert is_so()


def wait_for_draft(server: Any, name: str, value: object) -> None:
    """Wait until the form is kept with this value."""
    draft = server.folder / "user" / "draft.json"
    wait_until(lambda: draft.exists() and json.loads(draft.read_text())[name] == value)


def reset(page) -> None:
    """Set the form to the defaults."""
    page.locator("#reset-button").click()
    page.locator("#confirm-reset-button").click()
