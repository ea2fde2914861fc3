"""A page that may open only some folders, as with --listen: none of its parts reaches outside of them."""

from pathlib import Path

import gradio as gr
import pytest

from ed2.app.page.folders import Roots, drives
from ed2.app.user_files import UserFiles
from ed2.settings.files import PROGRAM_DIR
from ed2.ui.app import OwnerPage
from ed2.ui.context import Context
from ed2.ui.form import defaults
from ed2.ui.run_starter import start_run
from tests.past_runs import past_run

REQUEST = gr.Request(session_hash="1")
pytestmark = [pytest.mark.filterwarnings("ignore:There is no such folder")]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("allowed")
    (folder / "out").symlink_to("/etc")
    return Context(user=UserFiles(folder / "user"), roots=Roots((folder,)), begin={"logdir": str(folder)})


def test_a_run_with_any_path_outside_is_refused_and_the_fields_are_named(context: Context) -> None:
    outside = {
        "data_root": ["/etc"],
        "extra_manual_datasets": ["a=/etc"],
        "logdir": "/var/ed2",
        "save_ckpt_dir": "/var",
        "sample_prompts": "/etc/passwd",
        "manual_data_root": "/etc",
        "resume_ckpt": "/etc",
        "cache_dir": "/var/ed2",
    }
    page = OwnerPage(context)
    start_run(context, {**defaults(), **outside}, page.tabs, page.strip.problems)
    shown = context.service.snapshot()
    assert shown.state == "idle"
    assert {problem.path for problem in shown.problems} == set(outside)
    assert not Path("/var/ed2").exists()


def pressed(path: object) -> gr.EventData:
    """What a browser sends of something that was pressed."""
    return gr.EventData(None, {"location": path})


def test_no_tab_opens_a_folder_or_file_outside(context: Context) -> None:
    page = OwnerPage(context)
    dataset, settings = page.dataset, page.settings
    folders, prompts = page.form.controls["data_root"], page.form.controls["sample_prompts"]
    unchanged = gr.skip()
    context.service.show_problems(())  # what is listed in the strip is not listed in a tab too
    root = context.roots.folders[0]
    for place in ("/etc", f"{root}/out", f"{root}/../.."):
        assert dataset.browser.open(place) == {}
        with pytest.raises(gr.Error, match="no such folder"):
            dataset.use_folder(REQUEST, {dataset.browser.place: place})
        shown = page.form.show({**defaults(), "data_root": [place]})
        told = dataset.check_images(shown, progress=lambda *_, **__: None)
        assert "cannot be opened" in told[dataset.report]
        assert list(dataset.read_rest()), "else Gradio empties what was said"
        told = settings.memory.updates(REQUEST, {**defaults(), "resume_ckpt": place}, 0)[settings.memory.problems]
        assert "cannot be opened" in told
        for ask in (
            lambda place=place: page.resume.list_runs(REQUEST, place, None),
            lambda place=place: page.train.open_tensorboard(place),
            lambda place=place: page.sampling.reload(REQUEST, {prompts: f"{place}/passwd"}),
        ):
            with pytest.raises(gr.Error, match="cannot be opened"):
                ask()
        assert settings.models.press(pressed(str(place))) == unchanged
    assert dataset.browser.open(str(root))[dataset.browser.place] == str(root)
    taken = dataset.use_folder(REQUEST, {dataset.browser.place: f' "{root}" '})
    assert taken[folders] == str(root), "as file managers copy it"


def test_a_model_is_chosen_and_a_checkpoint_of_a_run_starts_over(context: Context, sd1: Path, tmp_path: Path) -> None:
    run = past_run(tmp_path, "stopped", "weights")
    (tmp_path / "lora.safetensors").write_bytes(b"no model")
    page = OwnerPage(Context(user=context.user, begin={"logdir": str(tmp_path)}))
    models, base, weights_only = page.settings.models, *map(page.form.controls.get, ("resume_ckpt", "weights_only"))
    assert models.press(pressed(str(sd1))) == {base: str(sd1), models.fold: gr.update(open=False)}
    place = models.browser.place
    assert models.open(REQUEST, {base: str(sd1), place: "/"})[place] == str(sd1.parent), "where the present one is"
    assert models.open(REQUEST, {base: "", place: ""})[place] == str(PROGRAM_DIR), "where nothing is typed"
    listing = models.press(pressed(str(tmp_path)))[models.browser.inside]
    assert ">last-tiny-ep03-gs00040<br><small>stoppedweights_20260101-000000<" in listing
    assert ">lora.safetens" in listing
    assert models.press(pressed(str(run / "ckpts" / "last-tiny-ep03-gs00040")))[weights_only] is True
    (context.roots.folders[0] / "link").symlink_to(run)
    outside = OwnerPage(context).settings.models.describe(context.roots.folders[0])
    assert "last-tiny" not in outside, "of a run outside"
    with pytest.raises(gr.Error, match="lora"):
        models.press(pressed(str(tmp_path / "lora.safetensors")))
    with pytest.raises(gr.Error, match="no such folder"):
        models.press(pressed(3))


def test_the_last_run_is_shown_at_the_start_unless_it_is_outside(context: Context, tmp_path: Path) -> None:
    run = past_run(tmp_path, "stopped", "weights")
    begin = {"logdir": str(tmp_path)}
    for roots, shown in ((context.roots, None), (Roots(), run)):
        opened = Context(user=context.user, roots=roots, begin=begin)
        opened.show_runs()
        assert opened.service.snapshot().run_dir == shown
        opened.service.close()


def test_drives_are_listed_and_system_mounts_are_not() -> None:
    mounts = ["/", "/boot", "/media/ada/Photos", "/run/media/ada/Stick", "/snap/core/1"]
    assert [(place.name, str(place.folder)) for place in drives(mounts)] == [
        ("Drive Photos", "/media/ada/Photos"),
        ("Drive Stick", "/run/media/ada/Stick"),
    ]
