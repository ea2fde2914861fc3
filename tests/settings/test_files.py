"""Settings files: presets in, the settings of a run out."""

import json
from pathlib import Path

import pytest

from ed2.errors import SettingsError
from ed2.settings.checks import settings_from
from ed2.settings.files import PROGRAM_DIR, absolute_paths, read_preset, with_defaults, write_settings


def preset(folder: Path, content: object) -> Path:
    path = folder / "preset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_the_settings_of_a_run_are_a_preset_that_restores_them(tmp_path: Path) -> None:
    settings = with_defaults({"batch_size": 3, "lr": 2e-6, "data_root": ["images"], "clip_grad_norm": None})
    write_settings(tmp_path / "settings.json", settings)
    assert settings_from(read_preset(tmp_path / "settings.json").values) == settings


def test_relative_paths_in_a_preset_count_from_the_programs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = read_preset(preset(tmp_path, {"data_root": ["images"], "logdir": "logs"})).values
    assert values == {"data_root": [str(PROGRAM_DIR / "images")], "logdir": str(PROGRAM_DIR / "logs")}


def test_a_public_model_name_stays_a_name(tmp_path: Path) -> None:
    assert read_preset(preset(tmp_path, {"resume_ckpt": "owner/model"})).values == {"resume_ckpt": "owner/model"}


def test_the_about_key_describes_the_preset(tmp_path: Path) -> None:
    read = read_preset(preset(tmp_path, {"about": {"title": "Small cards"}, "batch_size": 1}))
    assert (read.about, read.values) == ({"title": "Small cards"}, {"batch_size": 1})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"lr": 1e-6', "it is not valid JSON"),
        ('{"lr": NaN}', "NaN is not a number"),
        ('{"lr": 1, "lr": 2}', "duplicate keys: lr"),
        ("[1, 2]", "it contains no settings"),
        ("[" * 100_000, "it is not valid JSON"),
    ],
)
def test_a_damaged_file_is_named_with_the_reason(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told) as caught:
        read_preset(preset(tmp_path, content))
    assert "preset.json" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone\.json: the file does not exist"):
        read_preset(tmp_path / "gone.json")


def test_a_file_is_strict_and_unknown_keys_are_reported_with_the_nearest() -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from({"max_epoch": 3, "batch_size": "4", "amp": 1})
    text = str(caught.value)
    assert "max_epoch: there is no such setting. Did you mean max_epochs?" in text
    assert "batch_size: '4' is not allowed" in text
    assert "amp: 1 is not allowed. Use true or false." in text


@pytest.mark.parametrize("path", sorted((PROGRAM_DIR / "presets").glob("*.json")), ids=lambda path: path.stem)
def test_a_shipped_preset_is_valid_and_says_what_it_is_for(path: Path) -> None:
    read = read_preset(path)
    with_defaults(read.values)
    assert set(read.about) >= {"title", "for", "source"}


def test_quotes_copied_with_a_path_are_removed(tmp_path: Path) -> None:
    given = {"data_root": ['"cats"', "'/dogs'", "a 'b'"], "logdir": ' "runs" ', "extra_manual_datasets": ['a="more"']}
    assert absolute_paths(given, tmp_path) == {
        "data_root": [f"{tmp_path}/cats", "/dogs", f"{tmp_path}/a 'b'"],
        "logdir": f"{tmp_path}/runs",
        "extra_manual_datasets": [f"a={tmp_path}/more"],
    }


@pytest.mark.parametrize("pasted", [" {} ", "{}  ", "\t{}\n", '" {} "', "\u00a0{}"])
def test_blanks_around_a_pasted_path_are_taken_off(tmp_path: Path, pasted: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    text = pasted.format(folder)
    given = {"data_root": [text], "resume_ckpt": text, "logdir": text, "extra_manual_datasets": [f"own={text}"]}
    expected = {name: str(folder) for name in ("resume_ckpt", "logdir")}
    expected |= {"data_root": [str(folder)], "extra_manual_datasets": [f"own={folder}"]}  # type: ignore[dict-item]
    assert absolute_paths(given, tmp_path) == expected


def test_a_folder_whose_name_begins_with_a_blank_is_found(tmp_path: Path) -> None:
    folder = tmp_path / " images"
    folder.mkdir()
    assert absolute_paths({"data_root": [" images"]}, tmp_path) == {"data_root": [str(folder)]}


@pytest.mark.parametrize("text", ["", "  ", "none", "None"])
def test_no_prompt_file_is_no_path(tmp_path: Path, text: str) -> None:
    assert absolute_paths({"sample_prompts": text}, tmp_path) == {"sample_prompts": ""}
    assert with_defaults({"sample_prompts": text}).sampling.sample_prompts == ""
