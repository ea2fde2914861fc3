"""A page that may open only some folders, as with --listen: none of its parts reaches out of them."""

from pathlib import Path

import gradio as gr
import pytest

from ed2.app.page.folders import Roots, drives
from ed2.app.user_files import UserFiles
from ed2.settings.files import PROGRAM_DIR
from ed2.ui.context import Context
from ed2.ui.dataset_tab import DatasetTab
from ed2.ui.folder_browser import ModelChooser
from ed2.ui.form import Form, defaults
from ed2.ui.resume_tab import ResumeTab
from ed2.ui.sampling_tab import SamplingTab
from ed2.ui.settings_tab import SettingsTab
from ed2.ui.strip import started
from ed2.ui.train_tab import TrainTab
from tests.past_runs import past_run

pytestmark = [pytest.mark.filterwarnings("ignore:There is no such folder")]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("allowed")
    (folder / "out").symlink_to("/etc")
    return Context(user=UserFiles(folder / "user"), roots=Roots((folder,)), begin={"logdir": str(folder)})


def test_a_run_with_any_path_outside_is_refused_and_the_fields_are_named(context: Context) -> None:
    outside = {"data_root": ["/etc"], "extra_manual_datasets": ["a=/etc"], "logdir": "/var/ed2",
               "save_ckpt_dir": "/var", "sample_prompts": "/etc/passwd",
               "manual_data_root": "/etc", "resume_ckpt": "/etc"}  # fmt: skip
    started(context, {**defaults(), **outside})
    shown = context.service.snapshot()
    assert shown.state == "idle"
    assert {problem.path for problem in shown.problems} == set(outside)
    assert not Path("/var/ed2").exists()


def pressed(path: object) -> gr.EventData:
    """What a browser sends of something that was pressed."""
    return gr.EventData(None, {"lies": str(path)})


def test_no_tab_opens_a_folder_or_file_outside(context: Context) -> None:
    with gr.Blocks():
        form = Form(context.form_values())
        dataset, settings = DatasetTab(context, form), SettingsTab(context, form)
        sampling, resume, train = SamplingTab(context, form), ResumeTab(context), TrainTab(context)
    context.service.show_problems(())  # what stands in the strip is not told in a tab once more
    for place in ("/etc", f"{context.roots.folders[0]}/out", f"{context.roots.folders[0]}/../.."):
        assert all(answer["__type__"] == "update" for answer in dataset.browser.open(place))
        assert dataset._take(place)["__type__"] == "update"
        raw = list(form.shown({**defaults(), "data_root": [place]}))
        assert "may not be opened" in dataset._check(*raw)[0]
        assert "may not be opened" in settings._forecast_html({**defaults(), "resume_ckpt": place}, 0)[0]
        for handler, path in ((resume._place, place), (train._open_board, place), (sampling._read, f"{place}/passwd")):
            with pytest.raises(gr.Error, match="may not be opened"):
                handler(path)
        assert all(answer["__type__"] == "update" for answer in settings.models._pressed(pressed(place)))
    opened = dataset.browser.open(str(context.roots.folders[0]))
    assert opened[0] == str(context.roots.folders[0])
    assert dataset._take(f' "{opened[0]}" ') == opened[0], "as file managers copy it"


def test_a_model_is_taken_and_a_checkpoint_of_a_run_begins_anew(context: Context, sd1: Path, tmp_path: Path) -> None:
    run = past_run(tmp_path, "stopped", "weights")
    (tmp_path / "lora.safetensors").write_bytes(b"no model")
    everywhere = Context(user=context.user, begin={"logdir": str(tmp_path)})
    with gr.Blocks():
        chooser = ModelChooser(everywhere)
    assert chooser._pressed(pressed(sd1))[2:] == [str(sd1), gr.skip()]
    assert chooser._opened(str(sd1), "/")[0] == str(sd1.parent), "where the present one lies"
    assert chooser._opened("", "")[0] == str(PROGRAM_DIR), "where nothing is typed"
    listing = chooser._pressed(pressed(tmp_path))[1]
    assert (
        ">last-tiny-ep03-gs00040<br><small>stoppedweights_20260101-000000<" in listing and ">lora.safetens" in listing
    )
    assert chooser._pressed(pressed(run / "ckpts" / "last-tiny-ep03-gs00040"))[3] is True, "only the weights"
    (context.roots.folders[0] / "link").symlink_to(run)
    with gr.Blocks():
        assert "last-tiny" not in ModelChooser(context)._told(context.roots.folders[0]), "of a run outside"
    with pytest.raises(gr.Error, match="lora"):
        chooser._pressed(pressed(tmp_path / "lora.safetensors"))
    with pytest.raises(gr.Error, match="no such folder"):
        chooser._pressed(gr.EventData(None, {"lies": 3}))


def test_the_last_run_is_shown_at_the_start_unless_it_lies_outside(context: Context, tmp_path: Path) -> None:
    run = past_run(tmp_path, "stopped", "weights")
    begin = {"logdir": str(tmp_path)}
    for roots, shown in ((context.roots, None), (Roots(), run)):
        opened = Context(user=context.user, roots=roots, begin=begin)
        opened.show_runs()
        assert opened.service.snapshot().run_dir == shown
        opened.service.close()


def test_drives_are_told_and_what_the_system_mounts_for_itself_is_not() -> None:
    mounts = ["/", "/boot", "/media/ada/Photos", "/run/media/ada/Stick", "/snap/core/1"]
    assert [(place.name, str(place.folder)) for place in drives(mounts)] == [
        ("Drive Photos", "/media/ada/Photos"), ("Drive Stick", "/run/media/ada/Stick"),
    ]  # fmt: skip
