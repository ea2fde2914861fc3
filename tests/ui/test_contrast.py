"""Every text of every tab can be read: contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3), in both themes."""

import pytest

from tests.ui.conftest import Server

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.ui.actions import state, tab

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

FAINT = """() => {
  const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 });
  const pen = canvas.getContext('2d', { willReadFrequently: true });
  const rgba = colour => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((part, n) => part * a + below[n] * (1 - a));
  const COLOUR = /[a-z]+\\([^()]*\\)/g;
  // What can be below a text: one colour, or those between which a gradient changes.
  const grounds = element => {
    let below = [[255, 255, 255]];
    const chain = [];
    for (let at = element; at; at = at.parentElement) chain.unshift(getComputedStyle(at));
    for (const { backgroundColor, backgroundImage } of chain) {
      below = below.map(one => over(rgba(backgroundColor), one));
      const stops = backgroundImage.includes('gradient') ? backgroundImage.match(COLOUR) ?? [] : [];
      if (stops.length) below = stops.flatMap(stop => below.map(one => over(rgba(stop), one)));
    }
    return below;
  };
  const light = colour => {
    const linear = part => (part <= 10.3 ? part / 3294.6 : ((part / 255 + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = colour.map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (first, second) => {
    const [low, high] = [light(first), light(second)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const opacity = element => element ? Number(getComputedStyle(element).opacity) * opacity(element.parentElement) : 1;
  const isOff = element => element.closest('[disabled], [aria-disabled=true], [inert], fieldset[disabled]');
  const found = new Map();
  const look = (element, text, colour) => {
    const [r, g, b, a] = rgba(colour), faded = [r, g, b, a * opacity(element)];
    const is = Math.min(...grounds(element).map(below => contrast(over(faded, below), below)));
    if (is < 4.5) found.set(`${element.className} ${text.trim().slice(0, 40)}`, Math.round(is * 100) / 100);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement, shown = { visibilityProperty: true, opacityProperty: true };
    if (!node.data.trim() || !element.checkVisibility(shown) || isOff(element)) continue;
    const style = getComputedStyle(element);
    look(element, node.data, element instanceof SVGElement ? style.fill : style.color);
  }
  const WITHOUT_TEXT = '[type=checkbox], [type=radio], [type=range], [type=file]';
  for (const field of document.querySelectorAll('input, textarea')) {
    if (field.matches(WITHOUT_TEXT) || !field.checkVisibility({ visibilityProperty: true }) || isOff(field)) continue;
    look(field, field.value || field.id || 'field', getComputedStyle(field).color);
    if (field.placeholder) look(field, field.placeholder, getComputedStyle(field, '::placeholder').color);
  }
  return [...found];
}"""
"""The texts that are too faint, with their contrast; controls that cannot be used now are exempt."""
TABS = ("Start", "Dataset", "Settings", "Sampling", "Resume", "Train")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_every_tab_can_be_read(open_page, server: Server, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    state(page, "idle", "done")
    if scheme == "light":
        page.locator("#check-button").click()
        expect(page.locator("#filter-chips .ed-pending")).to_have_count(0)
        page.locator("#queue-button").click()
        expect(page.get_by_role("button", name="Queue: 1 run")).to_be_visible()
        page.locator("#train-button").click()
        state(page, "done")
    tab(page, "Dataset")
    for name in ("Tags", "Edit many captions", "Caption images automatically", "Weight of each folder"):
        page.get_by_role("button", name=name).first.click()
    page.locator("#caption-text textarea").fill("typed " * 100)
    expect(page.locator("#token-count")).to_contain_text("are ignored")
    tab(page, "Settings")
    page.get_by_role("radio", name="All", exact=True).check()
    page.locator("#fold-all-button").click()
    faint = dict[str, object]()
    for name in TABS:
        if name == "Start":
            page.get_by_role("button", name="EveryDream with a face").click()
        else:
            tab(page, name)
        expect(page.locator(f"#tab-{name.lower()}")).to_be_visible()
        page.wait_for_function("!document.querySelector('[data-ed-new]')")
        faint[name] = page.evaluate(FAINT)
    assert {name: texts for name, texts in faint.items() if texts} == {}
