"""What the page keeps and may open: drafts, presets, captions, folders."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ed2.app.checks.start_checks import as_setting_problems, start_problems
from ed2.app.page import folders
from ed2.app.page.folders import Roots, images_below
from ed2.app.user_files import UserFiles, preset_values
from ed2.errors import Problem, SettingsError
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


def test_own_presets_are_renamed_and_deleted_and_no_other_is(user: UserFiles) -> None:
    first, second = user.keep_preset("cats", {"max_epochs": 5}), user.keep_preset("dogs", {"max_epochs": 7})
    with pytest.raises(SettingsError, match="named 'dogs' already"):
        user.rename_preset(first, "dogs")
    assert user.rename_preset(first, " big cats ") == "My preset: big cats"
    assert list(user.own_presets()) == ["My preset: big cats", second]
    assert preset_values(user.own_presets()["My preset: big cats"]) == {"max_epochs": 5}
    user.remove_preset(second)
    shipped = next(iter(user.presets()))
    for title in (second, shipped, "My preset: ../../draft"):
        with pytest.raises(SettingsError, match="not one of your own"):
            user.remove_preset(title)
        with pytest.raises(SettingsError, match="not one of your own"):
            user.rename_preset(title, "x")
    with pytest.raises(SettingsError, match="not a valid name"):
        user.rename_preset("My preset: big cats", "../evil")
    assert list(user.own_presets()) == ["My preset: big cats"] and shipped in user.presets()


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


def test_the_images_below_a_folder_are_counted_and_a_large_tree_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "deep/b.JPG", "deep/er/c.webp", "deep/.hidden/d.png", "deep/e.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    assert images_below(tmp_path) == (3, True)
    monkeypatch.setattr(folders, "MAX_WALKED", 3)
    assert images_below(tmp_path)[1] is False


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
        "models/gone.safetensors": "there is no model models/gone.safetensors.",
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
