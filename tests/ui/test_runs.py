"""The list of runs, a run's page, comparing and deleting: as handlers, since a stranger may send them anything."""

import json
import re
import shutil
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from ed2.app.page.folders import Roots
from ed2.app.reporters.jsonl import JsonlReporter
from ed2.app.runs.records import RunNotes, find_run, nearest_checkpoint
from ed2.app.service import TrainerService
from ed2.app.user_files import UserFiles
from ed2.checkpoint.identity import pin
from ed2.events import CheckpointSaved, MetricsLogged, RunEnded, RunStarted, Sample, SamplesMade, ValidationDone
from ed2.ui.app import OwnerPage
from ed2.ui.context import Context
from ed2.ui.resume_tab import ResumeTab
from tests.elsewhere import trained_elsewhere

REQUEST = gr.Request(session_hash="1")


def recorded_run(logdir: Path, name: str, *, checkpoints: int = 2, **settings: object) -> Path:
    """A run with curves, two samples and checkpoints, made without training."""
    run = logdir / f"{name}_20260101-000000"
    for number in range(1, checkpoints + 1):
        checkpoint = run / "ckpts" / f"{name}-ep0{number}-gs000{number}0"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model_index.json").write_text("{}")
        (checkpoint / "weights").write_bytes(b"x" * 5000)
    (run / "ckpts").mkdir(parents=True, exist_ok=True)
    reporter = JsonlReporter(run)
    reporter(RunStarted(0, name, run, 20, 0, 2, 10, "the CPU", {}))
    for step in range(1, 21):
        reporter(MetricsLogged(step, {"loss/log_step": 1 / step}))
        if step % 10 == 0:
            reporter(ValidationDone(step, {"loss/val": 0.5 + step / 100}))
            image = run / "samples" / f"gs{step:05d}" / "00.png"
            image.parent.mkdir(parents=True)
            Image.new("RGB", (64, 64), (step, 9, 9)).save(image)
            sample = Sample(0, image, f"a {name} cat", "", 1, (7.0,), (64, 64), (image,))
            reporter(SamplesMade(step, (sample,), 1.0))
    reporter(RunEnded(20, "done", "all epochs are done", 1.0))
    reporter.close()
    (run / "settings.json").write_text(json.dumps({"project_name": name, "data_root": [str(logdir)], **settings}))
    return run


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(service=TrainerService(), user=UserFiles(tmp_path / "user"), roots=Roots((tmp_path,)))


@pytest.fixture
def tab(context: Context) -> ResumeTab:
    return OwnerPage(context).resume


def pressed(**data: object) -> gr.EventData:
    return gr.EventData(None, data)


def test_the_list_shows_name_state_steps_best_validation_size_and_notes(tab: ResumeTab, tmp_path: Path) -> None:
    run = recorded_run(tmp_path, "cat")
    tab.page.save_notes(str(tmp_path), run.name, "Best <cat>", "with flips\nand more")
    html = str(tab.list_runs(REQUEST, str(tmp_path), None)[tab.list])
    for words in ("Best &lt;cat&gt;", run.name, "done", "step 20 of 20", "0.6000", "step 10", "kB", "with flips"):
        assert words in html
    assert "and more" not in html
    record = find_run(tmp_path, run.name)
    assert record.folder.name == run.name, "the folder keeps its name"
    assert (record.name, record.best) == ("Best <cat>", (10, 0.6))


@pytest.mark.parametrize(("step", "nearest"), [(0, "gs00010"), (15, "gs00010"), (16, "gs00020"), (999, "gs00020")])
def test_the_nearest_checkpoint_is_the_earlier_of_two_as_near(tmp_path: Path, step: int, nearest: str) -> None:
    found = nearest_checkpoint(recorded_run(tmp_path, "cat"), step)
    assert found is not None
    assert found.name.endswith(nearest)
    assert nearest_checkpoint(tmp_path, step) is None


@pytest.mark.parametrize("step", [None, True, "10", [10], {}, -1, 11, 10.0])
def test_no_step_but_one_of_the_samples_shown_protects_a_checkpoint(
    context: Context, tmp_path: Path, step: object
) -> None:
    run, use_step = recorded_run(tmp_path, "cat"), OwnerPage(context).train.use_step
    context.service.show_last_run(tmp_path)
    with pytest.raises(gr.Error, match="no longer shown"):
        use_step.use(REQUEST, pressed(step=step))
    for handler in (use_step.export_file, use_step.continue_from):
        with pytest.raises(gr.Error, match="no longer there"):
            handler(REQUEST)
    assert not list(run.glob("ckpts/*/KEEP"))


def test_a_used_checkpoint_that_is_gone_is_neither_exported_nor_continued(context: Context, tmp_path: Path) -> None:
    run, use_step = recorded_run(tmp_path, "cat"), OwnerPage(context).train.use_step
    context.service.show_last_run(tmp_path)
    assert "step 10, the step of the sample" in use_step.use(REQUEST, pressed(step=10))[use_step.found]
    shutil.rmtree(run / "ckpts" / "cat-ep01-gs00010")
    for handler in (use_step.export_file, use_step.continue_from):
        with pytest.raises(gr.Error, match="no longer there"):
            handler(REQUEST)


def test_a_model_that_is_gone_is_not_exported_and_no_folder_opens_elsewhere(context: Context, tmp_path: Path) -> None:
    run, card = recorded_run(tmp_path, "cat"), OwnerPage(context).train.model
    checkpoint = run / "ckpts" / "cat-ep02-gs00020"
    reporter = JsonlReporter(run)
    reporter(CheckpointSaved(20, 1, "last", checkpoint, None, 1, 1.0))
    reporter.close()
    context.service.show_last_run(tmp_path)
    with pytest.raises(gr.Error, match=f"used from elsewhere.*{checkpoint.parent}"):
        card.open_folder()
    shutil.rmtree(run / "ckpts")
    for handler in (card.open_folder, card.export_file):
        with pytest.raises(gr.Error, match="no longer there"):
            handler()


def test_the_checkpoint_nearest_to_a_sample_of_any_run_is_protected_and_continued(
    tab: ResumeTab, tmp_path: Path
) -> None:
    run, panel = recorded_run(tmp_path, "cat"), tab.page
    place = (str(tmp_path), run.name)
    for step in (11, "10", None):
        with pytest.raises(gr.Error, match="no samples of this step"):
            panel.press(REQUEST, pressed(act="use", step=step), *place)
    found = panel.press(REQUEST, pressed(act="use", step=20), *place)
    assert "cat-ep02-gs00020</strong><br>step 20, the step of the sample" in found[panel.answer]
    assert "protected" in found[panel.view]
    assert [path.parent.name for path in run.glob("ckpts/*/KEEP")] == ["cat-ep02-gs00020"]
    filled = panel.press(REQUEST, pressed(act="continue", checkpoint="cat-ep02-gs00020"), *place)
    assert str(run / "ckpts" / "cat-ep02-gs00020") in filled.values()
    shutil.rmtree(run / "ckpts")
    with pytest.raises(gr.Error, match="has no checkpoint"):
        panel.press(REQUEST, pressed(act="use", step=20), *place)


def test_damaged_notes_are_none(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, "cat")
    (run / "notes.json").write_text('{"name": ["x"], "text": 3')
    assert RunNotes.read(run) == RunNotes()


def test_the_page_of_a_run_has_its_curves_samples_checkpoints_and_settings(tab: ResumeTab, tmp_path: Path) -> None:
    run = recorded_run(tmp_path, "cat", max_epochs=7)
    html = tab.describe(REQUEST, str(tmp_path), run.name)[tab.page.view]
    assert "loss/log_step" in html and "data-matrix" in html
    assert "cat-ep02-gs00020" in html and "max_epochs" in html
    assert html.index(" changed<") < html.index("at the default")


def test_deleting_asks_with_the_space_and_twice_for_the_last_checkpoint(tab: ResumeTab, tmp_path: Path) -> None:
    run, panel = recorded_run(tmp_path, "cat"), tab.page
    place = (str(tmp_path), run.name)
    old, last = sorted((run / "ckpts").iterdir())
    with pytest.raises(gr.Error, match="out of date"):
        panel.remove(REQUEST, *place)
    asked = panel.press(REQUEST, pressed(act="delete", checkpoint=old.name), *place)
    assert "5.0 kB" in asked[panel.asked] and old.is_dir()
    assert panel.remove(REQUEST, *place)[panel.question]["visible"] is False
    assert not old.exists()
    panel.press(REQUEST, pressed(act="delete", checkpoint=last.name), *place)
    again = panel.remove(REQUEST, *place)
    assert "last checkpoint" in again[panel.asked] and last.is_dir()
    panel.remove(REQUEST, *place)
    assert not last.exists() and run.is_dir()
    panel.ask_run(REQUEST, *place)
    panel.keep(REQUEST)
    with pytest.raises(gr.Error, match="out of date"):
        panel.remove(REQUEST, *place)
    panel.ask_run(REQUEST, *place)
    panel.remove(REQUEST, *place)
    assert not run.exists()


def test_a_run_with_checkpoints_is_deleted_after_two_questions_about_it(tab: ResumeTab, tmp_path: Path) -> None:
    run, other = recorded_run(tmp_path, "cat"), recorded_run(tmp_path, "dog")
    tab.page.ask_run(REQUEST, str(tmp_path), run.name)
    with pytest.raises(gr.Error, match="out of date"):
        tab.page.remove(REQUEST, str(tmp_path), other.name)
    tab.page.ask_run(REQUEST, str(tmp_path), run.name)
    tab.page.remove(REQUEST, str(tmp_path), run.name)
    assert run.is_dir(), "it has checkpoints: asked once more"
    tab.page.remove(REQUEST, str(tmp_path), run.name)
    assert not run.exists() and other.is_dir()


def test_what_is_trained_or_protected_or_elsewhere_is_not_deleted(tab: ResumeTab, tmp_path: Path) -> None:
    run, panel = recorded_run(tmp_path, "cat"), tab.page
    place = (str(tmp_path), run.name)
    first = sorted((run / "ckpts").iterdir())[0]
    pin(first, True)
    panel.press(REQUEST, pressed(act="delete", checkpoint=first.name), *place)
    with pytest.raises(gr.Error, match="protected"):
        panel.remove(REQUEST, *place)
    with trained_elsewhere(run):
        panel.ask_run(REQUEST, *place)
        panel.remove(REQUEST, *place)
        with pytest.raises(gr.Error, match="being trained"):
            panel.remove(REQUEST, *place)
    assert first.is_dir()
    for act, name in (("delete", "../.."), ("export", "/etc"), ("delete", None), ("try", ["x"]), (None, "..")):
        with pytest.raises(gr.Error, match="no longer there"):
            panel.press(REQUEST, pressed(act=act, checkpoint=name), *place)
    for name in ("..", "", "../x", None):
        with pytest.raises(gr.Error, match="Select a run"):
            panel.ask_run(REQUEST, str(tmp_path), name)
    with pytest.raises(gr.Error, match="cannot be opened from here"):
        panel.ask_run(REQUEST, "/etc", "x")


def test_a_link_to_a_run_elsewhere_is_not_followed_when_it_is_deleted(tab: ResumeTab, tmp_path: Path) -> None:
    run = recorded_run(tmp_path / "elsewhere", "cat", checkpoints=0)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "link").symlink_to(run)
    tab.page.ask_run(REQUEST, str(tmp_path / "logs"), "link")
    with pytest.raises(gr.Error, match="not the folder of a run"):
        tab.page.remove(REQUEST, str(tmp_path / "logs"), "link")
    assert (run / "events.jsonl").is_file()


def test_comparing_shows_what_differs_and_samples_of_the_same_step(tab: ResumeTab, tmp_path: Path) -> None:
    runs = [recorded_run(tmp_path, name, lr=lr) for name, lr in (("cat", 1e-4), ("dog", 2e-4))]
    picked = json.dumps([run.name for run in runs])
    shown = tab.compare.compare(str(tmp_path), picked)
    html = shown[tab.compare.view]
    assert "0.0002" in html and "<code>lr</code>" in html and "<code>batch_size</code>" not in html
    assert html.count("data-chart") == html.count("data-matrix") == 1
    assert (shown[tab.compare.step]["choices"], shown[tab.compare.step]["value"]) == (
        [("step 20", 20), ("step 10", 10)],
        20,
    )
    assert "data-matrix" in tab.compare.show_step(str(tmp_path), picked, 10)
    assert "No two of these runs" in tab.compare.show_step(str(tmp_path), picked, 7)


@pytest.mark.parametrize(
    "picked", ["", "[", "{}", "[1]", '["a"]', '["a","b","c","d","e"]', '["../x","y"]', "null", '[["x"],["y"]]']
)
def test_a_comparison_of_what_is_not_there_is_refused(tab: ResumeTab, tmp_path: Path, picked: str) -> None:
    recorded_run(tmp_path, "cat")
    with pytest.raises(gr.Error, match=r"Select 2 to 4 runs|no longer there"):
        tab.compare.compare(str(tmp_path), picked)


def test_what_was_typed_or_chosen_stays_while_the_same_run_is_described_again(tab: ResumeTab, tmp_path: Path) -> None:
    run = recorded_run(tmp_path, "cat")
    chosen = {tab.page.name, tab.lora.checkpoint}
    assert chosen <= tab.describe(REQUEST, str(tmp_path), run.name).keys()
    assert not chosen & tab.describe(REQUEST, str(tmp_path), run.name).keys()
    other = recorded_run(tmp_path, "dog")
    assert tab.page.name in tab.describe(REQUEST, str(tmp_path), other.name)


def test_a_run_whose_files_are_damaged_is_shown_as_far_as_it_can_be(tab: ResumeTab, tmp_path: Path) -> None:
    run = recorded_run(tmp_path, "cat")
    for name in ("settings.json", "manifest.json"):
        (run / name).write_text("{")
    (run / "events.jsonl").write_bytes(b"\xff" * 100)
    shutil.rmtree(run / "samples")
    html = tab.describe(REQUEST, str(tmp_path), run.name)[tab.page.view]
    assert re.search("0 of 0", html)
