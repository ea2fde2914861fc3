"""The page: how soon it is there and answers, in a headless Chromium.

    python -m scripts.benchmark.page FOLDER

serves it to be measured, with the user's files in FOLDER, and prints its port.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from scripts.benchmark.fixtures import ROOT, make_small_images
from scripts.benchmark.rows import Row, Size

CHECKED_IMAGES = 2000
LOAD_GOAL, ANSWER_GOAL, CHECK_GOAL = 2.0, 0.3, 2.0
"""Seconds by the clock, on an idle machine."""
LOADED, CHECKED = "page load", "Check, first images"
TABS = ("Settings", "Sampling", "Resume", "Train")
REST_MILLISECONDS = 1500
"""Between two presses, so that what follows an answer is not counted with the next one."""
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
WATCH = """
window.seen = (is_there, from) => new Promise((resolve, reject) => {
  setTimeout(reject, 120_000, new Error(`not seen: ${is_there}`));
  const look = () => requestAnimationFrame(is_there() ? () => resolve((performance.now() - from) / 1000) : look);
  look();
});
window.answer = is_there => { window.answered = new Promise(resolve => {
  let pressed = false;
  for (const kind of ['pointerdown', 'keydown']) document.addEventListener(kind, event => {
    if (!pressed) seen(is_there, event.timeStamp).then(resolve);
    pressed = true;
  }, true);
}); };
window.loaded = seen(() => window.ed?.store.isFilled && !document.getElementById('tabs').inert
  && document.getElementById('status').dataset.state !== 'connecting', 0);
window.isOpen = name => {
  const tab = document.getElementById(`tab-${name}`), blocks = [...tab?.querySelectorAll('.block') ?? []];
  const isShown = blocks.some(block => block.checkVisibility({ visibilityProperty: true }));
  return isShown && !tab.querySelector('[data-ed-new]');
};
"""
"""In the browser: seconds from a press, or from the request of the page, to the frame after the one that shows it."""


def page_rows(folder: Path, size: Size) -> list[Row]:
    """Load, first presses, and the first images of a check; each round with a program and a browser of its own."""
    images = make_small_images(folder / "images", min(size.scanned_images, CHECKED_IMAGES))
    rounds = [_round(folder / str(number), images) for number in range(size.rounds)]
    rows = []
    for what in rounds[0]:
        seconds, computing = ([of[what][kind] for of in rounds] for kind in (0, 1))
        goal = CHECK_GOAL if what == CHECKED else ANSWER_GOAL
        if what.startswith(LOADED):
            goal = LOAD_GOAL
        rows.append(Row.of(what, "s", seconds, goal=goal))
        rows.append(Row.of(f"{what}: computing of program and page", "CPU s", computing))
    return rows


def _round(folder: Path, images: Path) -> dict[str, tuple[float, float]]:
    """Seconds by the clock, and CPU seconds of the program and of the page's main thread, by what was done."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("ED2_CHROMIUM") or shutil.which("chromium")
    with _served(folder) as (url, program), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        visit = _Visit(browser, url, program)
        found = visit.everything(images)
        browser.close()
    return found


class _Visit:
    """One page in a browser that was never here."""

    def __init__(self, browser: Any, url: str, program: psutil.Process) -> None:
        self._url, self._program = url, program
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.add_init_script(WATCH)
        context.set_default_timeout(120_000)
        self._page = context.new_page()
        self._session = context.new_cdp_session(self._page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self._found: dict[str, tuple[float, float]] = {}

    def everything(self, images: Path) -> dict[str, tuple[float, float]]:
        """Open it for the first time, open each tab, change a setting, check images, look at them, open it anew."""
        page = self._page
        self._load(LOADED)
        for name in TABS:
            self._press(f"{name} tab, opened for the first time", f"isOpen('{name.lower()}')", _tab(page, name))
        _tab(page, "Settings").click()
        field, plan = page.locator("#batch_size input"), "document.getElementById('memory-plan').textContent"
        field.focus()
        page.evaluate(f"window.before = {plan}")
        self._take("a changed setting, memory planned", f"{plan} !== before", lambda: page.keyboard.type("2"))
        found = "document.getElementById('settings-found').textContent.includes('found')"
        page.locator("#settings-search").focus()
        self._take("search in the settings", found, lambda: page.keyboard.type("l"))
        _tab(page, "Dataset").click()
        page.locator("#data_root textarea").fill(str(images))
        shown = "document.querySelector('#dataset-grid [data-image]')"
        if not page.evaluate(f"Boolean({shown})"):
            self._press(CHECKED, shown, page.locator("#check-button"))
        chip = "document.querySelector('#filter-chips [aria-pressed=true]')"
        self._press("a filter of the images", chip, page.locator("#filter-chips button").first)
        self._load(f"{LOADED}, with checked images")
        return self._found

    def _load(self, what: str) -> None:
        before = self._program_seconds()
        self._page.goto(self._url)  # the page's own seconds begin anew
        seconds = self._page.evaluate("loaded")
        self._found[what] = (seconds, self._computed() - before)
        self._page.wait_for_timeout(REST_MILLISECONDS)

    def _press(self, what: str, is_there: str, button: Any) -> None:
        self._take(what, is_there, button.click)

    def _take(self, what: str, is_there: str, act: Any) -> None:
        before = self._computed()
        self._page.evaluate(f"answer(() => {is_there})")
        act()
        seconds = self._page.evaluate("answered")
        self._found[what] = (seconds, self._computed() - before)
        self._page.wait_for_timeout(REST_MILLISECONDS)

    def _computed(self) -> float:
        metrics = {one["name"]: one["value"] for one in self._session.send("Performance.getMetrics")["metrics"]}
        return float(metrics["TaskDuration"]) + self._program_seconds()

    def _program_seconds(self) -> float:
        times = self._program.cpu_times()
        return float(times.user + times.system)


def _tab(page: Any, name: str) -> Any:
    return page.get_by_role("tab", name=name, exact=True)


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The page in a program of its own that nobody else visits: its address and process."""
    command = [sys.executable, "-m", "scripts.benchmark.page", str(folder)]
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout
        port = program.stdout.readline().strip()
        if not port:
            raise RuntimeError("The page could not be served; its message is above.")
        yield f"http://127.0.0.1:{port}/", psutil.Process(program.pid)
    finally:
        program.kill()
        program.wait()


def serve_page(folder: Path) -> int:
    """Serve the page as someone gets it who starts the program for the first time; returns the port."""
    from ed2.app import measured
    from ed2.app.images import scanning
    from ed2.app.user_files import UserFiles
    from ed2.ui.app import OwnerPage
    from ed2.ui.context import Context
    from ed2.ui.guard import Hosts
    from ed2.ui.serving import LOOPBACK_NAMES, serve

    user = folder / "user"
    measured.SPEEDS_FILE, scanning.INDEX_FILE = user / "speeds.json", user / "index.json"
    context = Context(user=UserFiles(user), begin={"logdir": str(folder / "logs")})
    return serve(OwnerPage(context).blocks, port=7990, hosts=Hosts(LOOPBACK_NAMES), images=context.images)


if __name__ == "__main__":
    print(serve_page(Path(sys.argv[1])), flush=True)
    while True:
        time.sleep(60)
