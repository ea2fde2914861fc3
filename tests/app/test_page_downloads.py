"""The page's download: offered first, begun by a press, continued after a stop, each failure a text."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ed2.app.page.downloads import Downloader
from ed2.errors import RefusedError
from tests.hub import COMMIT, LocalHub, environment, files_of, serving


@pytest.fixture
def hub(sd1: Path) -> Iterator[LocalHub]:
    with serving(LocalHub(files=files_of(sd1))) as hub:
        yield hub


@pytest.fixture
def downloader(hub: LocalHub, tmp_path: Path) -> Iterator[Downloader]:
    downloader = Downloader(environment(tmp_path, hub.url))
    yield downloader
    downloader.close()


def wait(downloader: Downloader) -> None:
    end = time.monotonic() + 60
    while downloader.shown.state == "running" and time.monotonic() < end:
        time.sleep(0.05)


def test_nothing_is_fetched_before_the_press_and_then_all(
    downloader: Downloader, hub: LocalHub, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="Look up a model first"):
        downloader.start()
    downloader.look_up("owner/tiny")
    shown = downloader.shown
    assert (shown.state, shown.licence) == ("offered", "creativeml-openrail-m") and "in 13 files" in shown.size
    assert not hub.fetched()
    downloader.start()
    wait(downloader)
    shown = downloader.shown
    assert (shown.state, shown.is_model, shown.done) == ("done", True, shown.total)
    assert shown.path == str(tmp_path / f"hub/models--owner--tiny/snapshots/{COMMIT}")
    with pytest.raises(RefusedError):  # it was agreed to once
        downloader.start()


@pytest.mark.parametrize(
    ("name", "words"),
    [("tiny", "Enter the name"), ("../..", "cannot be downloaded"), ("nobody/nothing", "there is no public model")],
)
def test_a_wrong_name_is_said(name: str, words: str, downloader: Downloader) -> None:
    downloader.look_up(name)
    assert downloader.shown.state == "failed" and words in downloader.shown.text


def test_a_download_is_stopped_and_continued(downloader: Downloader, hub: LocalHub, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(12 << 20)
    hub.files, hub.breaks = {"model.safetensors": content}, [(10 << 20) + 5] + [0] * 20
    downloader.look_up("owner/tiny")
    downloader.start()
    end = time.monotonic() + 60
    while len(hub.breaks) > 19 and time.monotonic() < end:  # until it has begun to wait for the hub
        time.sleep(0.05)
    with pytest.raises(RefusedError, match="a download is in progress"):
        downloader.look_up("owner/tiny")
    downloader.stop()
    wait(downloader)
    assert downloader.shown.state == "failed" and "Download it again to continue" in downloader.shown.text
    hub.breaks.clear()
    before = len(hub.ranges())
    downloader.look_up("owner/tiny")
    downloader.start()
    wait(downloader)
    assert downloader.shown.state == "done" and not downloader.shown.is_model
    assert hub.ranges()[before:] == [f"bytes={10 << 20}-"]
