"""The command line: conversion, and errors that name the flag."""

from pathlib import Path

import pytest

from ed2.errors import SettingsError
from ed2.settings import cli
from ed2.settings.checks import settings_from
from ed2.settings.fields import fields

MISSION = """project_name amp useadam8bit max_epochs resolution ckpt_every_n_minutes save_every_n_epochs resume_ckpt
batch_size sample_prompts sample_steps gradient_checkpointing data_root lr lr_scheduler grad_accum logdir save_ckpt_dir
seed log_step cond_dropout attn_type""".split()


def flat(*argv: str) -> dict[str, object]:
    return settings_from(cli.parse(argv).values).flat()


def told(*argv: str) -> list[str]:
    return [str(problem) for problem in cli.parse(argv).problems]


def test_every_required_setting_of_the_original_is_a_flag() -> None:
    assert set(MISSION) <= set(fields())
    assert all(f"--{name} " in cli.help_text() for name in MISSION)


def test_flags_take_the_type_of_their_setting() -> None:
    values = flat("--batch_size", "4", "--lr", "2e-6", "--ckpt_every_n_minutes", "0.5", "--lr_scheduler", "cosine")
    assert (values["batch_size"], values["lr"], values["ckpt_every_n_minutes"]) == (4, 2e-6, 0.5)
    assert values["lr_scheduler"] == "cosine"


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--amp"], "amp", True),
        (["--no-amp"], "amp", False),
        (["--amp=false"], "amp", False),
        (["--gradient_checkpointing"], "gradient_checkpointing", True),
        (["--no_save_ckpt"], "no_save_ckpt", True),
        (["--no_save_ckpt=false"], "no_save_ckpt", False),
        (["--seed", "-1"], "seed", -1),
        (["--clip_grad_norm", "none"], "clip_grad_norm", None),
    ],
)
def test_switches_and_special_values(argv: list[str], name: str, value: object) -> None:
    assert flat(*argv)[name] == value


def test_data_root_may_be_given_several_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    roots = flat("--data_root", "a", "--data_root", "b", "c")["data_root"]
    assert roots == [str(tmp_path / name) for name in "abc"]


def test_an_unknown_flag_is_reported_with_the_nearest_one() -> None:
    assert told("--batchsize", "3") == ["--batchsize: there is no such flag. Did you mean --batch_size?"]


def test_all_problems_with_flags_are_listed_at_once_in_plain_words() -> None:
    argv = "--batch_size --lr -1e-6 --data_root --check=yes --vram_gb 0 --test_resume 1 --max_epoch 3 --config".split()
    assert told(*argv) == [
        "--batch_size: the value is missing. Give a whole number from 1 to 256.",
        "--lr: the value is missing. Give a number above 0 and up to 1.",
        "--data_root: the value is missing. Give a list of folders.",
        "--check: it takes no value. Use --check alone, or leave it out.",
        "--config: the value is missing. Give a settings file.",
        "'-1e-6' does not belong to a flag. Write a value that starts with - as --name=VALUE.",
        "--max_epoch: there is no such flag. Did you mean --max_epochs?",
        "--vram_gb: 0 is not a valid size. Give a GPU's memory in GB, such as 12.",
        "--test_resume: '1' is not allowed. Use a number of steps, at least 2.",
    ]
    assert told("a cat", "--config", "x.json") == [
        "'a cat' does not belong to a flag. Put a value that contains spaces in quotes."
    ]


def test_all_wrong_values_are_listed_at_once() -> None:
    argv = "--resolution 500 --batch_size 0 --lr abc --cond_dropout 2 --amp maybe --project_name ../x".split()
    with pytest.raises(SettingsError) as caught:
        flat(*argv)
    text = str(caught.value)
    assert text.startswith("6 settings are wrong:")
    assert "resolution: 500 is not allowed: choose 448 or 512." in text
    assert "batch_size: 0 is not allowed. Use a whole number from 1 to 256." in text
    assert "lr: 'abc' is not allowed. Use a number above 0 and up to 1, or leave it empty." in text
    assert caught.value.exit_code == 2


def test_infinity_and_nan_are_refused() -> None:
    for text in ("nan", "inf", "-inf"):
        with pytest.raises(SettingsError, match=r"lr: .* is not allowed"):
            flat(f"--lr={text}")
