"""Marking checkpoints on the tab Resume."""

from pathlib import Path

import gradio as gr
import pytest

from ed2.app.page.folders import Roots
from ed2.ui.context import Context
from ed2.ui.resume_tab import ResumeTab


def a_run(logdir: Path, steps: tuple[int, ...]) -> Path:
    run = logdir / "tiny_20260101-000000"
    for step in steps:
        for name in (f"tiny-ep00-gs{step:05d}", f"tiny-ep00-gs{step:05d}_ema"):
            (run / "ckpts" / name).mkdir(parents=True)
            (run / "ckpts" / name / "model_index.json").write_text("{}")
    (run / "events.jsonl").touch()
    (run / "ckpts" / ".damaged-1-tiny-ep00-gs00009").mkdir(parents=True, exist_ok=True)
    return run


def test_a_box_marks_a_checkpoint_of_the_chosen_run_and_nothing_else(tmp_path: Path) -> None:
    run = a_run(tmp_path, (2, 4))
    first, second = (f"tiny-ep00-gs{step:05d}" for step in (2, 4))
    with gr.Blocks():
        tab = ResumeTab(Context(roots=Roots((tmp_path,))))
    assert tab._allowed(str(tmp_path), "another")[-2]["visible"] is False
    *_, shown, seen = tab._allowed(str(tmp_path), run.name)
    assert (sorted(shown["choices"]), shown["value"], shown["visible"]) == ([first, second], [], True)
    shown, seen = tab._keep(str(tmp_path), run.name, seen, [first, "../../elsewhere"])
    assert shown["value"] == [first]
    assert [path.parent.name for path in tmp_path.rglob("KEEP")] == [first]
    assert tab._keep(str(tmp_path), run.name, seen, [])[0]["value"] == []
    assert not list(tmp_path.rglob("KEEP"))
    with pytest.raises(gr.Error, match="Choose a run"):
        tab._keep(str(tmp_path), "another", seen, [first])


def test_a_mark_that_was_made_elsewhere_since_the_boxes_were_shown_stays(tmp_path: Path) -> None:
    run = a_run(tmp_path, (2, 4, 6))
    first, second, third = (f"tiny-ep00-gs{step:05d}" for step in (2, 4, 6))
    (run / "ckpts" / first / "KEEP").touch()
    with gr.Blocks():
        tab = ResumeTab(Context(roots=Roots((tmp_path,))))
    *_, seen = tab._allowed(str(tmp_path), run.name)
    (run / "ckpts" / second / "KEEP").touch()  # by hand, or on another page
    shown, seen = tab._keep(str(tmp_path), run.name, seen, [first, third])
    assert shown["value"] == list(seen) == [first, second, third]
    (run / "ckpts" / first / "KEEP").unlink()
    assert tab._keep(str(tmp_path), run.name, seen, [first, second])[0]["value"] == [second]
