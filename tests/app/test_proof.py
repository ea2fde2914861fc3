"""The resume test on a user's own settings, with real processes and a real kill."""

import sys
from pathlib import Path

import pytest

from ed2.app.command import main
from ed2.app.proof import prove
from ed2.app.service import RefusedError
from ed2.app.tester import ResumeTester
from ed2.errors import SettingsError
from tests.runs import Values

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="not tried there yet")


@pytest.mark.slow
def test_a_killed_run_is_shown_to_end_with_the_same_bytes_and_nothing_is_left(values: Values, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    killed_before = tmp_path / "logs" / ".test-resume-999999999-abc"
    killed_before.mkdir()
    heard: list[str] = []
    proof = prove({**values, "seed": -1}, None, steps=4, tell=heard.append)
    assert proof.is_same, proof.as_text()
    assert (proof.steps, proof.half) == (4, 2)
    assert "The same, byte by byte" in proof.as_text()
    assert "4 steps in one go, against 2, a kill, and 2 more" in proof.as_text()
    assert [text for text in heard if text.startswith("Part 2")][-1].endswith("step 3 of 4.")
    assert next(text for text in heard if "step" in text and text.startswith("Part 3")).endswith("step 3 of 4.")
    assert not list((tmp_path / "logs").iterdir())


def test_wrong_settings_are_told_before_anything_is_started(values: Values) -> None:
    with pytest.raises(SettingsError, match="there is no folder"):
        prove({**values, "data_root": ["/not/there"]}, None, tell=print)
    assert main(["--test_resume", "1"]) == 2


def test_no_test_begins_beside_a_run_and_a_run_ends_a_test(values: Values) -> None:
    is_training = True
    tester = ResumeTester(lambda: is_training)
    with pytest.raises(RefusedError, match="a run is going on"):
        tester.start(values)
    is_training = False
    tester.start(values)
    with pytest.raises(RefusedError, match="a test is going on"):
        tester.start(values)
    is_training = True
    tester.wait()
    assert tester.shown.state == "failed"
    assert "a run was started" in tester.shown.text
    assert not list(Path(str(values["logdir"])).iterdir())
