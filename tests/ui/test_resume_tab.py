"""The tab Resume: what can be done with a run, and why not the rest."""

import re
import shutil
from pathlib import Path

import gradio as gr
import pytest

from ed2.app.page.folders import Roots
from ed2.events import PhaseChanged, RunEnded
from ed2.ui.context import Context
from ed2.ui.resume_tab import A_RUN_GOES_ON, IS_DONE, NO_CHECKPOINT, WEIGHTS_ALONE, ResumeTab
from tests.elsewhere import trained_elsewhere
from tests.past_runs import past_run


@pytest.fixture
def tab(tmp_path: Path) -> ResumeTab:
    with gr.Blocks():
        return ResumeTab(Context(roots=Roots((tmp_path,))))


def allowed(tab: ResumeTab, run: Path | None) -> tuple[bool, bool, bool, str]:
    """Whether Continue, Use as base model and the epochs to train on are offered for a run, and the note."""
    go_on, as_base, more, why, *_ = tab._allowed(str(run.parent if run else "logs"), run.name if run else None)
    return go_on["interactive"], as_base["interactive"], more["visible"], why


def test_only_what_works_can_be_pressed_and_the_rest_is_told(tab: ResumeTab, tmp_path: Path) -> None:
    assert tab._allowed(str(tmp_path), None)[0]["interactive"] is False
    assert allowed(tab, past_run(tmp_path, "stopped")) == (
        False,
        False,
        False,
        f'<p class="ed-note">{NO_CHECKPOINT}</p>',
    )
    weights = allowed(tab, past_run(tmp_path, "stopped", "weights"))
    assert weights == (False, True, False, f'<p class="ed-note">{WEIGHTS_ALONE}</p>')
    whole = past_run(tmp_path, "stopped", "whole")
    assert allowed(tab, whole) == (True, True, False, "")
    with trained_elsewhere(whole) as pid:
        *offered, why = allowed(tab, whole)
        assert offered == [False, True, False] and f"another program (process {pid})" in why
        with pytest.raises(gr.Error, match="goes on in another program"):
            tab._continue(str(tmp_path), whole.name, None)


def test_a_killed_run_says_from_which_step_it_goes_on(tab: ResumeTab, tmp_path: Path) -> None:
    run = past_run(tmp_path, "killed", "whole")
    assert "continues from step 40, its last checkpoint" in tab._fill(str(tmp_path), None)[1]
    service = tab._context.service
    service.show_last_run(tmp_path)
    assert service.snapshot().detail.endswith("continue it in the tab Resume, from step 40")
    shutil.rmtree(run / "ckpts")
    service.show_last_run(tmp_path)
    assert service.snapshot().detail.endswith("before the first checkpoint: press Train to begin anew")


def test_while_a_run_goes_on_none_is_continued_and_a_paused_one_is_called_so(tab: ResumeTab, tmp_path: Path) -> None:
    run = past_run(tmp_path, "stopped", "whole")
    view = tab._context.service._view
    view.change("status", run_dir=run)
    view(PhaseChanged(3, "training"))
    assert allowed(tab, run) == (False, True, False, f'<p class="ed-note">{A_RUN_GOES_ON}</p>')
    assert 'data-state="running"' in tab._fill(str(tmp_path), None)[1]
    view(PhaseChanged(3, "paused"))
    assert 'data-state="paused"' in tab._fill(str(tmp_path), None)[1]
    with pytest.raises(gr.Error, match="A run is going on"):
        tab._continue(str(tmp_path), run.name, None)


def test_a_run_that_has_ended_is_the_chosen_one_until_another_is_pressed(tab: ResumeTab, tmp_path: Path) -> None:
    old, new = past_run(tmp_path, "stopped", "whole"), past_run(tmp_path, "done", "whole")
    view, told = tab._context.service._view, ""

    def filled(chosen: Path | None) -> str:
        nonlocal told
        _, cards, told = tab._fill(str(tmp_path), chosen.name if chosen else None, told)
        return str(re.search('data-offered="(.*?)"', cards)[1])

    assert filled(old) == old.name
    view.change("status", run_dir=new)
    view(PhaseChanged(3, "training"))
    assert filled(old) == old.name, "it may be looked at meanwhile"
    view(RunEnded(12, "done", "all epochs are done", 1.0))
    assert [filled(old), filled(old)] == [new.name, old.name], "at the end, and not again once another is pressed"


def test_a_run_that_is_done_is_trained_on_up_to_a_higher_epoch(tab: ResumeTab, tmp_path: Path) -> None:
    run = past_run(tmp_path, "done", "whole")
    go_on, _, more, why, *_ = tab._allowed(str(tmp_path), run.name)
    assert go_on["interactive"] and (more["visible"], more["value"]) == (True, 6) and IS_DONE in why
    for up_to in (None, 4, -1):
        with pytest.raises(gr.Error, match="has done its 4 epochs"):
            tab._continue(str(tmp_path), run.name, up_to)
