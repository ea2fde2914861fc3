"""What the page keeps and may open: drafts, presets, captions, folders."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ed2.app.checks.base_model import as_setting_problems
from ed2.app.checks.start_checks import start_problems
from ed2.app.images.captions import CaptionEdits
from ed2.app.page.folders import Roots
from ed2.app.user_files import UserFiles, preset_values
from ed2.errors import Ed2Error, Problem, SettingsError
from ed2.settings.fields import fields
from ed2.settings.files import NAMED_FOLDERS, PROGRAM_DIR, absolute_paths


@pytest.fixture
def user(tmp_path: Path) -> UserFiles:
    return UserFiles(tmp_path / "user")


def test_a_draft_is_restored_and_a_damaged_one_is_ignored(user: UserFiles) -> None:
    assert user.draft() == {}
    user.keep_draft({"lr": None, "project_name": "ünï"})
    assert user.draft() == {"lr": None, "project_name": "ünï"}
    (user.folder / "draft.json").write_text('{"lr": ')
    assert user.draft() == {}


def test_a_draft_written_by_several_threads_at_once_is_whole(user: UserFiles) -> None:
    drafts = [{"project_name": letter * 5000} for letter in "abcd"]
    with ThreadPoolExecutor(len(drafts)) as threads:
        for _ in range(10):
            list(threads.map(user.keep_draft, drafts))  # raises what a thread has raised
            assert user.draft() in drafts
    assert [path.name for path in user.folder.iterdir()] == ["draft.json"]


def test_own_presets_are_listed_after_the_shipped_ones(user: UserFiles) -> None:
    title = user.keep_preset("my cat", {"max_epochs": 5})
    presets = user.presets()
    assert list(presets)[-1] == title == "My preset: my cat"
    assert "Demo: teach a tiny model a new creature" in presets
    assert preset_values(presets[title]) == {"max_epochs": 5}


@pytest.mark.parametrize("name", ["", "../evil", "a/b", ".hidden", "x" * 80, "a\nb"])
def test_a_preset_cannot_leave_its_folder(user: UserFiles, name: str) -> None:
    with pytest.raises(SettingsError):
        user.keep_preset(name, {})
    assert not user.folder.exists()


def test_the_owner_may_open_any_folder_and_others_only_the_named_ones(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside / "deep", outside):
        folder.mkdir(parents=True)
    (inside / "link").symlink_to(outside)
    assert Roots().allow(Path("/"))
    roots = Roots((inside,))
    assert roots.allow(inside / "deep")
    for path in (outside, inside / ".." / "out", inside / "link", Path("/etc"), tmp_path / "in2"):
        assert not roots.allow(path)


def test_a_path_outside_is_refused_with_the_name_of_its_setting(tmp_path: Path) -> None:
    values = {"data_root": [str(tmp_path), "/etc"], "sample_prompts": "/etc/passwd", "logdir": str(tmp_path)}
    with pytest.raises(SettingsError) as caught:
        Roots((tmp_path,)).require(values)
    assert [problem.path for problem in caught.value.problems] == ["data_root", "sample_prompts"]


PATH_SETTINGS = [name for name, spec in fields().items() if spec.is_path]


@pytest.mark.parametrize("name", PATH_SETTINGS)
def test_no_setting_leads_out_of_the_allowed_folders(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("/etc")
    roots = Roots((tmp_path,))
    for path in ("/etc", f"{tmp_path}/../..", f"{tmp_path}/link", "../.."):
        text = f"val2={path}" if name == NAMED_FOLDERS else path
        value = [str(tmp_path), text] if fields()[name].many else text
        with pytest.raises(SettingsError) as caught:
            roots.require(absolute_paths({name: value}, PROGRAM_DIR))
        assert [problem.path for problem in caught.value.problems] == [name]
    inside = f"val2={tmp_path}/in" if name == NAMED_FOLDERS else f"{tmp_path}/in"
    roots.require(absolute_paths({name: [inside] if fields()[name].many else inside}, PROGRAM_DIR))


def test_settings_that_hold_paths_are_marked_as_such() -> None:
    wanted = {"data_root", "resume_ckpt", "ema_resume_model", "sample_prompts", "manual_data_root", "save_ckpt_dir"}
    assert wanted | {"extra_manual_datasets", "logdir"} <= set(PATH_SETTINGS)
    named = [n for n in fields() if n.endswith(("_dir", "_root", "dir", "_ckpt_dir", "_file", "_path"))]
    assert set(named) <= set(PATH_SETTINGS)


def test_undo_restores_captions_one_by_one_byte_for_byte(tmp_path: Path) -> None:
    edits = CaptionEdits(tmp_path / "kept")
    image = tmp_path / "cat.png"
    image.touch()
    (tmp_path / "cat.txt").write_bytes(b"caf\xe9\r\n")
    edits.save(image, "a  new\ncaption ")
    assert (tmp_path / "cat.txt").read_text() == "a new caption\n"
    edits.save(image, "newer")
    assert edits.undo(image)
    assert (tmp_path / "cat.txt").read_text() == "a new caption\n"
    assert edits.undo(image)
    assert (tmp_path / "cat.txt").read_bytes() == b"caf\xe9\r\n"
    assert not edits.undo(image)


def test_undoing_a_first_caption_removes_its_file(tmp_path: Path) -> None:
    edits = CaptionEdits(tmp_path / "kept")
    (tmp_path / "cat.png").touch()
    edits.save(tmp_path / "cat.png", "a cat")
    assert edits.undo(tmp_path / "cat.png")
    assert not (tmp_path / "cat.txt").exists()


def test_a_caption_is_written_into_the_existing_sidecar(tmp_path: Path) -> None:
    (tmp_path / "cat.caption").write_text("old")
    (tmp_path / "cat.png").touch()
    assert CaptionEdits(tmp_path / "kept").save(tmp_path / "cat.png", "new") == tmp_path / "cat.caption"


def test_a_caption_that_cannot_be_saved_says_why(tmp_path: Path) -> None:
    with pytest.raises(Ed2Error, match=r"not saved: cat\.png no longer exists\. Press Check"):
        CaptionEdits(tmp_path / "kept").save(tmp_path / "cat.png", "text")
    assert not list(tmp_path.iterdir())
    (tmp_path / "cat.png").touch()
    (tmp_path / "kept").touch()
    with pytest.raises(Ed2Error, match="not saved"):
        CaptionEdits(tmp_path / "kept").save(tmp_path / "cat.png", "text")
    with pytest.raises(Ed2Error, match="10,000"):
        CaptionEdits(tmp_path / "kept").save(tmp_path / "cat.png", "x" * 10_001)


def test_a_resumed_run_needs_no_dataset_setting_and_a_new_one_does(tmp_path: Path) -> None:
    (tmp_path / "run" / "ckpts").mkdir(parents=True)
    (tmp_path / "run" / "settings.json").write_text("{}")
    known = {"resume_ckpt": str(tmp_path / "run"), "logdir": str(tmp_path), "no_save_ckpt": True}
    assert start_problems(known) == []
    assert [problem.path for problem in start_problems({**known, "data_root": []})] == ["data_root"]
    assert json.dumps([str(p) for p in start_problems({**known, "resume_ckpt": ""})]).count("no base model") == 1


def test_an_invalid_base_model_is_reported_with_everything_else_by_field_and_path(tmp_path: Path) -> None:
    image, pickled = tmp_path / "cat.png", tmp_path / "sd.ckpt"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(32))
    pickled.write_bytes(b"x")
    wanted = {
        str(PROGRAM_DIR / "ed2/demo"): "contains no diffusers model. Did you mean base inside it?",
        str(image): "this is an image, not a model. ",
        str(pickled): "the file is cut short at 1 byte. Get the file again.",
        "nobody/nothing": "is not on this computer, and a run downloads nothing.",
        "/nowhere/at/all": "Check the path for typos.",
    }
    others = {"logdir": str(tmp_path), "no_save_ckpt": True, "data_root": ["/not here"]}
    for base, text in wanted.items():
        told = {problem.path: str(problem) for problem in start_problems({**others, "resume_ckpt": base})}
        assert told.keys() == {"resume_ckpt", "data_root"}
        assert base in told["resume_ckpt"] and text in told["resume_ckpt"]
    sound = {**others, "resume_ckpt": str(PROGRAM_DIR / "ed2/demo/base")}
    assert [problem.path for problem in start_problems(sound)] == ["data_root"]


def test_problems_that_the_trainer_finds_in_a_base_model_name_its_setting() -> None:
    faults = [Problem("unet", "it is torn."), Problem(None, "it is odd."), Problem("prediction_type", "it is unsaid.")]
    told = [str(problem) for problem in as_setting_problems("/models/cat", faults)]
    assert told[:2] == ["resume_ckpt: /models/cat: unet: it is torn.", "resume_ckpt: /models/cat: it is odd."]
    assert told[2] == "prediction_type: it is unsaid."
