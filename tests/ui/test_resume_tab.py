"""The Resume tab: what can be done with a run, and why not the rest."""

import json
import re
import shutil
from pathlib import Path

import gradio as gr
import pytest

from ed2.app.page.folders import Roots
from ed2.app.run_view import RunView
from ed2.app.service import TrainerService
from ed2.app.user_files import UserFiles
from ed2.events import PhaseChanged, RunEnded
from ed2.ui.app import OwnerPage
from ed2.ui.context import Context
from ed2.ui.lora_panel import NO_CHECKPOINT as NOTHING_TO_EXTRACT
from ed2.ui.lora_panel import NOT_SELECTED, WAIT
from ed2.ui.resume_tab import IN_PROGRESS, IS_DONE, NO_CHECKPOINT, ONLY_WEIGHTS, ResumeTab
from tests.elsewhere import trained_elsewhere
from tests.past_runs import past_run

REQUEST = gr.Request(session_hash="1")


@pytest.fixture
def view() -> RunView:
    """What is shown of the run of this program; events may be told to it."""
    return RunView()


@pytest.fixture
def context(tmp_path: Path, view: RunView) -> Context:
    return Context(service=TrainerService(view), user=UserFiles(tmp_path / "user"), roots=Roots((tmp_path,)))


@pytest.fixture
def tab(context: Context) -> ResumeTab:
    return OwnerPage(context).resume


def offered(tab: ResumeTab, run: Path) -> tuple[bool, bool, bool, str]:
    """Whether Resume, Use as base model and the last epoch are offered for a run, and the note."""
    shown = tab.describe(REQUEST, str(run.parent), run.name)
    buttons = [shown[button]["interactive"] for button in (tab.resume, tab.as_base)]
    return *buttons, shown[tab.last_epoch]["visible"], re.sub("<.*?>", "", shown[tab.note])


def listed(tab: ResumeTab, logdir: Path, chosen: str | None = None) -> str:
    return str(tab.list_runs(REQUEST, str(logdir), chosen)[tab.list])


def test_only_working_buttons_are_enabled_and_the_rest_is_explained(tab: ResumeTab, tmp_path: Path) -> None:
    assert offered(tab, tmp_path / "none") == (False, False, False, "")
    assert offered(tab, past_run(tmp_path, "stopped")) == (False, False, False, NO_CHECKPOINT)
    assert offered(tab, past_run(tmp_path, "stopped", "weights")) == (False, True, False, ONLY_WEIGHTS)
    whole = past_run(tmp_path, "stopped", "whole")
    assert offered(tab, whole) == (True, True, False, "")
    with trained_elsewhere(whole) as pid:
        *buttons, note = offered(tab, whole)
        assert buttons == [False, True, False] and f"another program (process {pid})" in note
        with pytest.raises(gr.Error, match="is being trained in another program"):
            tab.resume_run(str(tmp_path), whole.name, None)


def test_a_killed_run_says_from_which_step_it_resumes(tab: ResumeTab, context: Context, tmp_path: Path) -> None:
    run = past_run(tmp_path, "killed", "whole")
    assert "resumes from step 40, its last checkpoint" in listed(tab, tmp_path)
    service = context.service
    service.show_last_run(tmp_path)
    assert "step 40" in service.snapshot().detail
    shutil.rmtree(run / "ckpts")
    service.show_last_run(tmp_path)
    assert "before the first checkpoint" in service.snapshot().detail


def test_during_a_run_none_can_be_resumed_and_a_paused_one_is_labelled(
    tab: ResumeTab, view: RunView, tmp_path: Path
) -> None:
    run = past_run(tmp_path, "stopped", "whole")
    view.change("status", run_dir=run)
    view(PhaseChanged(3, "training"))
    assert offered(tab, run) == (False, True, False, IN_PROGRESS)
    assert 'data-state="running"' in listed(tab, tmp_path)
    view(PhaseChanged(3, "paused"))
    assert 'data-state="paused"' in listed(tab, tmp_path)
    with pytest.raises(gr.Error, match="A run is in progress"):
        tab.resume_run(str(tmp_path), run.name, None)


def test_a_run_that_has_ended_is_selected_once(tab: ResumeTab, view: RunView, tmp_path: Path) -> None:
    old, new = past_run(tmp_path, "stopped", "whole"), past_run(tmp_path, "done", "whole")

    def offer() -> str:
        return str(re.search('data-offered="(.*?)"', listed(tab, tmp_path, old.name))[1])

    assert offer() == old.name
    view.change("status", run_dir=new)
    view(PhaseChanged(3, "training"))
    assert offer() == old.name, "it may be looked at meanwhile"
    view(RunEnded(12, "done", "all epochs are done", 1.0))
    assert [offer(), offer()] == [new.name, old.name], "at the end, and not again once another is selected"


def test_a_run_that_is_done_is_trained_up_to_a_later_epoch(tab: ResumeTab, tmp_path: Path) -> None:
    run = past_run(tmp_path, "done", "whole")
    assert offered(tab, run) == (True, True, True, IS_DONE)
    fields = [tab.describe(REQUEST, str(tmp_path), name)[tab.last_epoch] for name in (run.name, None, run.name)]
    assert [field.get("value", "as typed") for field in fields] == ["as typed", None, 6]
    for last_epoch in (None, 4, -1):
        with pytest.raises(gr.Error, match="All 4 epochs are done"):
            tab.resume_run(str(tmp_path), run.name, last_epoch)


def extraction(tab: ResumeTab, run: Path) -> tuple[bool, str]:
    """Whether a LoRA can be extracted from a run, and what is said of it."""
    shown = tab.describe(REQUEST, str(run.parent), run.name)
    return shown[tab.lora.start]["interactive"], re.sub("<.*?>", "", shown[tab.lora.result])


def test_a_lora_is_extracted_only_from_a_checkpoint_and_not_during_a_run(
    tab: ResumeTab, view: RunView, tmp_path: Path
) -> None:
    whole, empty = past_run(tmp_path, "stopped", "whole"), past_run(tmp_path, "stopped")
    assert extraction(tab, tmp_path / "none") == (False, NOT_SELECTED)
    assert extraction(tab, empty) == (False, NOTHING_TO_EXTRACT)
    assert tab.lora.show(REQUEST)[tab.lora.start]["interactive"] is False
    assert extraction(tab, whole) == (True, "")
    place = (REQUEST, str(tmp_path), whole.name)
    with pytest.raises(gr.Error, match="Select a run with a checkpoint"):
        tab.lora.extract(*place, "../elsewhere", 32)
    with trained_elsewhere(whole):
        can_extract, note = extraction(tab, whole)
        assert not can_extract and "is being trained in another program" in note
    view.change("status", run_dir=whole)
    view(PhaseChanged(3, "training"))
    assert extraction(tab, whole) == (False, WAIT)
    with pytest.raises(gr.Error, match="A run is in progress"):
        tab.lora.extract(*place, "last-tiny-ep03-gs00040", 32)


def test_an_average_is_offered_too_and_the_selected_checkpoint_stays(tab: ResumeTab, tmp_path: Path) -> None:
    run = past_run(tmp_path, "done", "whole")
    name = "last-tiny-ep03-gs00040"
    shutil.copytree(run / "ckpts" / name, run / "ckpts" / f"{name}_ema")
    other = past_run(tmp_path, "stopped")
    for described in (run, other, run):
        shown = tab.describe(REQUEST, str(tmp_path), described.name)[tab.lora.checkpoint]
        names = [name, f"{name}_ema"] if described == run else []
        assert (list(shown["choices"]), shown["value"]) == (names, next(iter(names), None))
    assert tab.lora.checkpoint not in tab.describe(REQUEST, str(tmp_path), run.name), "what is selected stays"


@pytest.mark.parametrize(
    ("base", "words"), [("nowhere", "base model of this run is missing"), ("..", "cannot be opened from here")]
)
def test_a_base_that_is_gone_or_not_allowed_is_said(tab: ResumeTab, tmp_path: Path, base: str, words: str) -> None:
    run = past_run(tmp_path, "done", "whole")
    settings = {"resume_ckpt": str((tmp_path / base).resolve()), "save_ckpt_dir": str(tmp_path)}
    (run / "settings.json").write_text(json.dumps(settings))
    shown = tab.lora.extract(REQUEST, str(tmp_path), run.name, "last-tiny-ep03-gs00040", 32)
    assert 'data-state="failed"' in shown[tab.lora.result] and words in shown[tab.lora.result]
