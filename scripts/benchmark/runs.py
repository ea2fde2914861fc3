"""Runs: a long one that is opened, and what a page costs that is open and shows it."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from PIL import Image

from ed2.app.reporters.jsonl import JsonlReporter
from ed2.app.runs.facts import RunFacts
from ed2.app.runs.records import RunRecord, find_runs
from ed2.app.user_files import UserFiles
from ed2.events import MetricsLogged, RunEnded, RunStarted, Sample, SamplesMade, ValidationDone
from ed2.ui.app import OwnerPage
from ed2.ui.context import Context
from ed2.ui.guard import Hosts
from ed2.ui.run_html import run_page_html
from ed2.ui.serving import LOOPBACK_NAMES, serve
from scripts.benchmark.rows import Row, Size, cpu_seconds

PROMPTS = 4
PORT = 7940
GOAL_SECONDS = 2.0


def run_rows(folder: Path, size: Size) -> list[Row]:
    """Opening, and being open."""
    logs = folder / "logs"
    listed, opened = [], []
    for number in range(size.rounds):  # another run each time, since what was read once is kept
        run = write_run(logs, number, size)
        listed.append(cpu_seconds(lambda: find_runs(logs)))
        record = next(one for one in find_runs(logs) if one.folder == run)
        opened.append(cpu_seconds(lambda record=record: _open(record)))  # type: ignore[misc]
    name = f"run of {size.points:,} points and {size.samples:,} samples"
    rows = [
        Row.of(f"{name}: in the list of runs", "CPU s", listed),
        Row.of(f"{name}: opened", "CPU s", opened, goal=GOAL_SECONDS),
    ]
    return [*rows, *_open_page_rows(folder, logs, size)]


def write_run(logs: Path, number: int, size: Size) -> Path:
    """A run in its folder, made without training: five curves, a validation each hundredth, samples all along."""
    run = logs / f"long_2026010{number + 1}-000000"
    run.mkdir(parents=True)
    reporter, draw = JsonlReporter(run), random.Random(number)
    every, validated = max(1, size.points * PROMPTS // size.samples), max(1, size.points // 100)
    reporter(RunStarted(0, "long", run, size.points, 0, 100, 1000, "the CPU", {}))
    for step in range(1, size.points + 1):
        values = {"loss/log_step": draw.random(), "hyperparameter/lr unet": 1e-6, "performance/vram": 9.5}
        values |= {"optimizer/grad_norm": draw.random(), "performance/images per second": 5 + draw.random()}
        reporter(MetricsLogged(step, values))
        if step % validated == 0:
            reporter(ValidationDone(step, {"loss/val": draw.random(), "loss/train_stabilized": draw.random()}))
        if step % every == 0:
            reporter(_samples(run, step))
    reporter(RunEnded(size.points, "done", "all epochs are done", 1.0))
    reporter.close()
    return run


def _samples(run: Path, step: int) -> SamplesMade:
    folder = run / "samples" / f"gs{step:05d}"
    folder.mkdir(parents=True)
    made = []
    for index in range(PROMPTS):
        path = folder / f"{index:02d}.png"
        Image.new("RGB", (64, 64), (step % 256, 50 * index, 9)).save(path)
        made.append(Sample(index, path, f"a prompt of number {index}", "", 5, (7.0,), (64, 64), (path,)))
    return SamplesMade(step, tuple(made), 1.0)


def _open(record: RunRecord) -> None:
    context = Context(user=UserFiles(record.folder.parent.parent / "user"))
    run_page_html(RunFacts.of(record), context.run_images, context.trained_in(record.folder))


def _open_page_rows(folder: Path, logs: Path, size: Size) -> list[Row]:
    """What a page costs that shows the run and waits, in a browser; nothing without Playwright and Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return []
    chromium = os.environ.get("ED2_CHROMIUM") or shutil.which("chromium")
    if not chromium:
        return []
    alone, program, browsers = [], [], []
    with _served(folder, logs) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 960})
        for _ in range(size.rounds):
            page.goto("about:blank")
            alone.append(_per_second(lambda: page.wait_for_timeout(1000 * size.open_seconds), size)[0])
            page.goto(url)
            page.get_by_role("tab", name="Train", exact=True).click()
            page.wait_for_selector("#loss-chart .line", state="attached")
            page.wait_for_timeout(3000)
            ours, theirs = _per_second(lambda: page.wait_for_timeout(1000 * size.open_seconds), size)
            program.append(ours)
            browsers.append(theirs)
        browser.close()
    name, unit = "open page that shows it, a second", "CPU s"
    return [
        Row.of(f"{name}: the program, without a page", unit, program, alone, how="difference"),
        Row.of(f"{name}: the browser", unit, browsers),
    ]


@contextmanager
def _served(folder: Path, logs: Path) -> Iterator[str]:
    """The address of the page, which shows the newest run."""
    context = Context(user=UserFiles(folder / "user"), begin={"logdir": str(logs)})
    context.service.show_last_run(logs)
    page = OwnerPage(context)
    port = serve(page.blocks, port=PORT, hosts=Hosts(LOOPBACK_NAMES), images=context.images)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        context.service.close()
        page.close()


def _per_second(wait: Callable[[], object], size: Size) -> tuple[float, float]:
    """CPU seconds per second of this program, and of the browser, while it waits."""
    before, started = _browser_seconds(), time.process_time()
    wait()
    return (time.process_time() - started) / size.open_seconds, (_browser_seconds() - before) / size.open_seconds


def _browser_seconds() -> float:
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            if "chrom" in child.name():
                used = child.cpu_times()
                total += used.user + used.system
        except psutil.Error:  # it has just ended
            continue
    return total
