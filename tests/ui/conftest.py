"""The real page with a real trainer in this process, and a real browser."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.app.test_service import Values
from tests.tiny import make_images, make_model

CHROMIUM = os.environ.get("ED2_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = [(96, 96), (100, 90), (96, 64), (64, 96)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """The owner's page on a port, and what it works on."""

    context: object
    page: object
    port: int
    folder: Path
    values: Values = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def begin_with(self, **values: object) -> None:
        """Have pages that open from now on show the first form, with these settings."""
        from ed2.ui.form import defaults

        self.context.keep_form({**defaults(), **self.values, **values})


@contextmanager
def serving(folder: Path, values: Values, **options: object) -> Iterator[Server]:
    """The page with this form, as the program serves it: with the last run of the logs; `options` of its context."""
    from ed2.app import measured
    from ed2.app.user_files import UserFiles
    from ed2.ui.app import OwnerPage
    from ed2.ui.context import Context
    from ed2.ui.guard import Hosts
    from ed2.ui.serving import LOOPBACK_NAMES, serve

    measured.SPEEDS_FILE = folder / "user" / "speeds.json"
    context = Context(user=UserFiles(folder / "user"), begin=values, **options)
    page = OwnerPage(context)
    context.service.show_last_run(Path(str(values["logdir"])))
    context.service.follow(Path(str(values["logdir"])))
    images = context.images
    port = serve(page.blocks, port=free_port(), hosts=Hosts(LOOPBACK_NAMES), images=images)
    yield Server(context, page, port, folder, values)
    context.service.close()
    context.sharing.close()
    page.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    prompts = folder / "prompts.json"
    prompts.write_text(json.dumps({"num_inference_steps": 2, "samples": [{"prompt": "a cat"}]}))
    values: Values = {
        "project_name": "tiny",
        "data_root": [str(make_images(folder / "images", SIZES))],
        "resume_ckpt": str(make_model(folder / "model")),
        "resolution": 64,
        "max_epochs": 4,
        "log_step": 1,
        "sample_prompts": str(prompts),
        "sample_steps": 1000,
        "logdir": str(folder / "logs"),
        "no_save_ckpt": True,
    }
    with serving(folder, values) as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Debian's Chromium. Where it is missing the tests are skipped; on a build server that is a failure."""
    try:
        from playwright.sync_api import Error, expect, sync_playwright
    except ImportError:
        pytest.fail("playwright is missing") if os.environ.get("CI") == "true" else pytest.skip("needs playwright")
    expect.set_options(timeout=60_000)  # 5 s are not enough for an answer on a loaded machine
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(
                executable_path=CHROMIUM, args=FLAGS, ignore_default_args=["--disable-popup-blocking"]
            )  # as people have it
        except Error as error:
            pytest.fail(str(error)) if os.environ.get("CI") == "true" else pytest.skip("needs Chromium")
        yield chromium
        chromium.close()


@dataclass
class Watched:
    """A page that remembers what it complained of and asked for."""

    page: object
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def open_page(browser, server: Server):  # type: ignore[no-untyped-def]
    """Opens pages; at the end none of them may have complained or asked anybody but this computer."""
    opened: list[Watched] = []
    contexts = []

    def open_one(width: int = 1280, height: int = 900, url: str = "", **options: object):  # type: ignore[no-untyped-def]
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(60_000)
        page = context.new_page()
        watched = Watched(page)
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        page.on("console", lambda m: watched.complaints.append(m.text) if m.type == "error" else None)
        page.on("request", lambda request: watched.requests.append(request.url))
        contexts.append(context)
        opened.append(watched)
        page.goto(url or server.url)
        page.watched = watched
        return page

    yield open_one
    complaints = [complaint for watched in opened for complaint in watched.complaints]  # before what closing cuts off
    for context in contexts:
        context.close()
    assert not complaints
    for watched in opened:
        assert not [u for u in watched.requests if u.startswith("http") and "//127.0.0.1:" not in u]
