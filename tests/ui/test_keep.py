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


def test_a_box_pins_a_checkpoint_of_the_selected_run_and_nothing_else(tab: ResumeTab, tmp_path: Path) -> None:
    run = a_run(tmp_path, (2, 4))
    first, second = (f"tiny-ep00-gs{step:05d}" for step in (2, 4))
    place = (REQUEST, str(tmp_path))
    assert tab.describe(*place, "another")[tab.kept]["visible"] is False
    shown = tab.describe(*place, run.name)[tab.kept]
    assert (sorted(shown["choices"]), shown["value"], shown["visible"]) == ([first, second], [], True)
    assert tab.keep_checkpoints(*place, run.name, [first, "../../elsewhere"])[tab.kept]["value"] == [first]
    assert [path.parent.name for path in tmp_path.rglob("KEEP")] == [first]
    assert tab.keep_checkpoints(*place, run.name, [])[tab.kept]["value"] == []
    assert not list(tmp_path.rglob("KEEP"))
    with pytest.raises(gr.Error, match="Select a run"):
        tab.keep_checkpoints(*place, "another", [first])


def test_a_pin_set_elsewhere_since_the_boxes_were_shown_stays(tab: ResumeTab, tmp_path: Path) -> None:
    run = a_run(tmp_path, (2, 4, 6))
    first, second, third = (f"tiny-ep00-gs{step:05d}" for step in (2, 4, 6))
    place = (REQUEST, str(tmp_path), run.name)
    (run / "ckpts" / first / "KEEP").touch()
    tab.describe(*place)
    (run / "ckpts" / second / "KEEP").touch()  # by hand, or on another page
    assert tab.keep_checkpoints(*place, [first, third])[tab.kept]["value"] == [first, second, third]
    (run / "ckpts" / first / "KEEP").unlink()
    assert tab.keep_checkpoints(*place, [first, second])[tab.kept]["value"] == [second]
