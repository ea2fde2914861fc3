"""Marking checkpoints in the Resume tab."""

from pathlib import Path

import gradio as gr
import pytest

from ed2.app.page.folders import Roots
from ed2.app.user_files import UserFiles
from ed2.ui.app import OwnerPage
from ed2.ui.context import Context
from ed2.ui.resume_tab import ResumeTab

REQUEST = gr.Request(session_hash="1")


def a_run(logdir: Path, steps: tuple[int, ...]) -> Path:
    run = logdir / "tiny_20260101-000000"
    for step in steps:
        for name in (f"tiny-ep00-gs{step:05d}", f"tiny-ep00-gs{step:05d}_ema"):
            (run / "ckpts" / name).mkdir(parents=True)
            (run / "ckpts" / name / "model_index.json").write_text("{}")
    (run / "events.jsonl").touch()
    (run / "ckpts" / ".damaged-1-tiny-ep00-gs00009").mkdir(parents=True, exist_ok=True)
    return run


@pytest.fixture
def tab(tmp_path: Path) -> ResumeTab:
    return OwnerPage(Context(user=UserFiles(tmp_path / "user"), roots=Roots((tmp_path,)))).resume


def press(tab: ResumeTab, run: Path, act: str, checkpoint: str) -> str:
    event = gr.EventData(None, {"act": act, "checkpoint": checkpoint})
    return str(tab.page.press(REQUEST, event, str(run.parent), run.name)[tab.page.view])


def test_a_press_protects_a_checkpoint_of_the_selected_run_and_nothing_else(tab: ResumeTab, tmp_path: Path) -> None:
    run = a_run(tmp_path, (2, 4))
    first, second = (f"tiny-ep00-gs{step:05d}" for step in (2, 4))
    html = press(tab, run, "protect", first)
    assert f"Unprotect {first}" in html and f"Protect {second}" in html and f"Protect {first}" not in html
    assert [path.parent.name for path in tmp_path.rglob("KEEP")] == [first]
    for name in ("../../elsewhere", f"{first}_ema", ".damaged-1-tiny-ep00-gs00009"):
        with pytest.raises(gr.Error, match="no longer there"):
            press(tab, run, "protect", name)
    with pytest.raises(gr.Error, match="Select a run"):
        press(tab, tmp_path / "another", "protect", first)
    assert f"Protect {first}" in press(tab, run, "unprotect", first)
    assert not list(tmp_path.rglob("KEEP"))


def test_a_protection_that_was_set_elsewhere_stays(tab: ResumeTab, tmp_path: Path) -> None:
    run = a_run(tmp_path, (2, 4))
    first, second = (f"tiny-ep00-gs{step:05d}" for step in (2, 4))
    (run / "ckpts" / second / "KEEP").touch()  # by hand, or on another page
    press(tab, run, "protect", second)
    html = press(tab, run, "protect", first)
    assert f"Unprotect {first}" in html and f"Unprotect {second}" in html
