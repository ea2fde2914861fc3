"""Running out of file handles passes: it is waited out, said once, and not taken for a drive that is gone."""

import errno
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ed2 import disk_errors
from ed2.app.service import Survived
from ed2.data.images import ImageError
from ed2.disk_errors import is_out_of_handles, plain_reason, wait_for_handles
from ed2.settings.files import PROGRAM_DIR


class Failing:
    """Work that fails so many times before it is done."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.left, self.calls = error, times, 0

    def __call__(self) -> str:
        self.calls += 1
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return "done"


def caused_by(cause: BaseException) -> Exception:
    error = ImageError("it cannot be read", "", lasting=False)
    error.__cause__ = cause
    return error


OUT = [OSError(errno.EMFILE, "x"), caused_by(OSError(errno.ENFILE, "x")), RuntimeError("full (os error 24)")]


@pytest.mark.parametrize("error", OUT, ids=str)
def test_work_is_done_again_until_files_can_be_opened(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk_errors, "HANDLES_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(disk_errors, "_NEXT_TOLD", [0.0])
    work = Failing(error, 3)
    with caplog.at_level(logging.WARNING):
        assert wait_for_handles(work) == "done"
    assert work.calls == 4
    assert len(caplog.records) == 1 and "too many files open" in caplog.text
    assert "drive" not in plain_reason(error)


def test_other_errors_and_an_end_of_patience_are_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        wait_for_handles((tmp_path / "gone").read_bytes)
    monkeypatch.setattr(disk_errors, "HANDLES_SECONDS", -1.0)
    work = Failing(OSError(errno.EMFILE, "x"), 3)
    with pytest.raises(OSError) as caught:
        wait_for_handles(work)
    assert is_out_of_handles(caught.value) and work.calls == 1


def test_a_loop_of_the_service_survives_any_error_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    survived = Survived("The memory in use cannot be read")
    for error in (None, OSError(errno.EMFILE, "x"), RuntimeError("y"), KeyError("z"), None, None):
        with survived:
            if error:
                raise error
    first, second = caplog.messages
    assert "too many files open" in first
    assert second == "Resolved: the memory in use cannot be read."
    with pytest.raises(KeyboardInterrupt), survived:
        raise KeyboardInterrupt


SCAN = """
import os, resource, sys, threading
from pathlib import Path
from ed2.data.folder import ScanOptions, scan

folder = Path(sys.argv[1])
scan([folder], ScanOptions(resolution=64, index_path=folder.parent / "first.json"))  # every module is read now
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    threading.Timer(1.5, lambda: [os.close(handle) for handle in taken]).start()
found = scan([folder], ScanOptions(resolution=64, index_path=folder.parent / "second.json"))
print([(example.name, example.caption) for example in found.examples], found.problems)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the handles of a program")
def test_a_scan_waits_for_handles_instead_of_leaving_out_images_and_captions(tmp_path: Path) -> None:
    (tmp_path / "images" / "inner").mkdir(parents=True)
    for name in ("one", "inner/two"):
        Image.new("RGB", (64, 64), "teal").save(tmp_path / f"images/{name}.png")
        (tmp_path / f"images/{name}.txt").write_text(f"caption of {name}")
    command = [sys.executable, "-c", SCAN, str(tmp_path / "images")]
    done = subprocess.run(command, cwd=PROGRAM_DIR, capture_output=True, text=True, timeout=100, check=False)
    wanted = [("inner/two.png", "caption of inner/two"), ("one.png", "caption of one")]
    assert done.stdout == f"{wanted} ()\n", done.stderr
