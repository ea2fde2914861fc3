"""The resume test on a user's own settings, with real processes and a real kill."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from ed2.app.command import main
from ed2.app.ranks.messages import encoded, event_message
from ed2.app.resume_test.run import ResumeTest, ResumeTester, run_resume_test
from ed2.app.runs.removing import sweep_resume_tests
from ed2.errors import Ed2Error, RefusedError, SettingsError
from ed2.events import StepDone
from ed2.settings.files import PROGRAM_DIR, with_defaults
from tests.runs import Values

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="not tried there yet")


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes_and_leaves_nothing_behind(values: Values, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    killed_before = tmp_path / "logs" / ".test-resume-999999999-abc"
    killed_before.mkdir()
    os.utime(killed_before, (0, 0))
    elsewhere = tmp_path / "logs" / ".test-resume-999999998-abc"  # of another computer that shares the drive
    elsewhere.mkdir()
    killed_just_now = tmp_path / "logs" / ".test-resume-999999997-abc"
    killed_just_now.mkdir()
    (killed_just_now / ".lock").touch()
    going_on = tmp_path / "logs" / ".test-resume-999999996-abc"
    going_on.mkdir()
    heard: list[str] = []
    with FileLock(going_on / ".lock"):
        os.utime(going_on / ".lock", (0, 0))
        os.utime(going_on, (0, 0))
        result = run_resume_test({**values, "seed": -1}, None, steps=4, tell=heard.append)
    assert result.is_same, result.as_text()
    assert (result.steps, result.half) == (4, 2)
    assert "Identical, byte for byte" in result.as_text()
    assert "4 steps in one go, against 2, a kill, and 2 more" in result.as_text()
    assert [text for text in heard if text.startswith("Part 2")][-1].endswith("step 3 of 4.")
    assert next(text for text in heard if "step" in text and text.startswith("Part 3")).endswith("step 3 of 4.")
    assert sorted((tmp_path / "logs").iterdir()) == [going_on, elsewhere]


def test_wrong_settings_are_reported_before_anything_is_started(values: Values) -> None:
    with pytest.raises(SettingsError, match="there is no folder"):
        run_resume_test({**values, "data_root": ["/not/there"]}, None, tell=print)
    with pytest.raises(SettingsError, match="it is 2, but the resume test trains in one process"):
        run_resume_test({**values, "num_processes": 2}, None, tell=print)
    assert main(["--test_resume", "1"]) == 2


def test_no_test_starts_during_a_run_and_a_run_ends_a_test(values: Values) -> None:
    is_training = True
    tester = ResumeTester(lambda: is_training)
    with pytest.raises(RefusedError, match="a run is in progress"):
        tester.start(values)
    is_training = False
    tester.start(values)
    with pytest.raises(RefusedError, match="a test is in progress"):
        tester.start(values)
    is_training = True
    tester.wait()
    assert tester.shown.state == "failed"
    assert "a run was started" in tester.shown.text
    assert not list(Path(str(values["logdir"])).iterdir())


def test_a_test_with_an_unexpected_error_says_so_and_frees_its_button(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("argument of type 'int' is not iterable")

    monkeypatch.setattr("ed2.app.resume_test.run.run_resume_test", fail)
    tester = ResumeTester(lambda: False)
    for _ in range(2):
        tester.start(values)
        tester.wait()
        assert tester.shown.state == "failed"
        assert "TypeError: argument of type 'int'" in tester.shown.text


def resume_test(values: Values, folder: Path) -> ResumeTest:
    return ResumeTest(with_defaults(values), folder, 4, tell=lambda _: None, should_stop=lambda: False)


def test_output_of_a_library_is_not_mistaken_for_progress(values: Values, tmp_path: Path) -> None:
    step = StepDone(3, 0, 1)
    lines = ["1", "[]", '"failed"', "null", encoded(event_message(step)).decode().strip(), "hello"]
    code = f"print({chr(10).join(lines)!r})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert list(resume_test(values, tmp_path)._events("1 of 3", process, 4)) == [step]


def test_a_part_ends_with_its_killed_test_and_the_next_run_removes_the_leftovers(
    values: Values, tmp_path: Path
) -> None:
    """In `--test_resume`, killed while its part reads the libraries, which takes the longest."""
    (tmp_path / "settings.json").write_text(json.dumps(values))
    command = [
        sys.executable,
        str(PROGRAM_DIR / "train.py"),
        "--test_resume",
        "--config",
        str(tmp_path / "settings.json"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as test:
        assert test.stdout
        while not test.stdout.readline().startswith("Part 1"):
            assert test.poll() is None
        (part,) = _awaited_children(test.pid)
        test.kill()
        psutil.wait_procs([part], timeout=60)
    assert not part.is_running()
    logdir = Path(str(values["logdir"]))
    assert len(list(logdir.glob(".test-resume-*"))) == 1
    sweep_resume_tests(logdir)
    assert not list(logdir.glob(".test-resume-*"))


def _awaited_children(pid: int) -> list[psutil.Process]:
    """The children of a process that is about to start one."""
    while not (children := psutil.Process(pid).children()):
        time.sleep(0.01)
    return children


@pytest.mark.slow
def test_a_save_that_fails_ends_the_test_with_its_reason(values: Values, tmp_path: Path) -> None:
    import resource  # Windows has none

    test = resume_test(values, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the part inherits it
    try:
        with pytest.raises(Ed2Error, match="does not support files of this size"):
            test._killed("2 of 3: half, then a kill", test._values("killed"), 2, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
