"""What becomes of the flags, keys and files of the original."""

import json
import re
from pathlib import Path

import pytest

from ed2.errors import SettingsError
from ed2.settings import cli
from ed2.settings.checks import settings_from
from ed2.settings.fields import fields
from ed2.settings.files import read_preset, with_defaults
from ed2.settings.gather import Gathered, gather
from ed2.settings.legacy import ALWAYS, COLUMNS, DEAD, LATER, ORIGINAL

TRAIN = {
    "config": "train.json",
    "amp": True,
    "attn_type": "sdp",
    "batch_size": 8,
    "ckpt_every_n_minutes": None,
    "clip_grad_norm": None,
    "clip_skip": 0,
    "cond_dropout": 0.04,
    "data_root": "/images",
    "disable_amp": False,
    "disable_textenc_training": False,
    "ema_device": None,
    "ema_update_interval": None,
    "enable_zero_terminal_snr": False,
    "flip_p": 0.0,
    "gpuid": 0,
    "gradient_checkpointing": True,
    "hf_repo_subfolder": None,
    "load_settings_every_epoch": None,
    "loss_type": "mse",
    "max_epochs": 40,
    "min_snr_gamma": 5.0,
    "notebook": False,
    "optimizer_config": "optimizer.json",
    "project_name": "project_abc",
    "pyramid_noise_discount": 0.03,
    "rated_dataset": True,
    "resolution": 512,
    "resume_ckpt": "panopstor/EveryDream",
    "run_name": None,
    "sample_steps": 300,
    "save_ckpt_dir": None,
    "save_every_n_epochs": 20,
    "save_optimizer": False,
    "seed": -1,
    "train_sampler": "ddim",
    "validation_config": "validation_default.json",
    "wandb": True,
    "zero_frequency_noise_ratio": 0.02,
}
OPTIMIZER = {
    "doc": {"base": "text"},
    "base": {"optimizer": "adamw8bit", "lr": 1e-6, "lr_scheduler": "constant", "betas": None},
    "text_encoder_overrides": {"optimizer": None, "lr": 5e-7},
    "text_encoder_freezing": {"unfreeze_last_n_layers": None, "freeze_front_n_layers": None},
    "text_encoder_lr_scale": 0.5,
    "apply_grad_scaler_step_tweaks": True,
}
VALIDATION = {
    "validate_training": True,
    "val_split_mode": "automatic",
    "auto_split_proportion": 0.15,
    "manual_data_root": None,
    "extra_manual_datasets": {"santa": "/santa"},
    "stabilize_training_loss": False,
    "every_n_epochs": 1,
    "seed": 556,
    "batch_size": 2,
    "use_relative_loss": True,
}


@pytest.fixture
def train_json(tmp_path: Path) -> Path:
    for name, content in {"train": TRAIN, "optimizer": OPTIMIZER, "validation_default": VALIDATION}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path / "train.json"


def test_the_three_files_of_the_original_load_together_and_each_key_is_accounted_for(train_json: Path) -> None:
    gathered = gather({}, train_json)
    flat = with_defaults(gathered.values).flat()
    wanted = {
        "batch_size": 8,
        "data_root": ["/images"],
        "max_epochs": 40,
        "seed": -1,
        "save_every_n_epochs": 20,
        "clip_grad_norm": None,
        "optimizer": "adamw8bit",
        "lr": 1e-6,
        "text_encoder_lr": 5e-7,
        "val_split_mode": "automatic",
        "val_seed": 556,
        "val_batch_size": 2,
        "extra_manual_datasets": ["santa=/santa"],
        "every_n_epochs": 1.0,
        "amp": True,
        "device": "auto",
    }
    assert {name: flat[name] for name in wanted} == wanted
    told = "\n".join(gathered.notes)
    for name in ("wandb", "rated_dataset", "train_sampler", "text_encoder_lr_scale", "use_relative_loss"):
        assert f"\n  {name} has no effect" in told
    assert told.startswith("Read train.json of EveryDream 2:\n  used: amp, attn_type, batch_size, ")
    assert "\n  not set: ckpt_every_n_minutes, " in told
    assert "\n  turned off, and without effect here: config, disable_amp, gpuid, notebook, save_optimizer.\n" in told
    assert max(map(len, told.splitlines())) <= COLUMNS
    words = set(re.findall(r"[\w.]*\w", told))
    sections = [f"{section}.{key}" for section in list(OPTIMIZER)[1:4] for key in OPTIMIZER[section]]
    assert {*TRAIN, *VALIDATION, *sections, *list(OPTIMIZER)[4:]} <= words
    for name in set(ORIGINAL) & set(TRAIN) - set(fields()):
        assert name not in gathered.values


def test_the_settings_file_wins_over_the_files_that_it_names_and_a_flag_over_all(train_json: Path) -> None:
    train_json.write_text(json.dumps({**TRAIN, "lr": 3e-6, "every_n_epochs": 2}))
    values = gather({"max_epochs": 7}, train_json).values
    assert (values["lr"], values["every_n_epochs"], values["max_epochs"]) == (3e-6, 2.0, 7)
    assert "text_encoder_lr" not in values  # a common rate wins over both of the optimizer file


def test_a_named_file_that_is_missing_is_an_error(train_json: Path) -> None:
    (train_json.parent / "validation_default.json").unlink()
    with pytest.raises(SettingsError, match=r"validation_config: the file validation_default\.json does not exist"):
        gather({}, train_json)


def both_ways(tmp_path: Path, name: str, value: object, *argv: str) -> tuple[Gathered, Gathered]:
    """The same setting, from the command line and from a file."""
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({name: value}))
    return gather(cli.parse([f"--{name}", *argv]).values, None), gather({}, path)


@pytest.mark.parametrize("name", sorted({*DEAD, *LATER, "save_optimizer"}))
def test_a_name_without_effect_is_reported_with_the_reason_from_flag_and_file(tmp_path: Path, name: str) -> None:
    for gathered in both_ways(tmp_path, name, True):
        assert gathered.values == {}
        (note,) = gathered.notes
        assert note.startswith(f"{name} ") and {**DEAD, **LATER, **ALWAYS}[name] in note


def test_disable_amp_that_is_off_is_amp(tmp_path: Path) -> None:
    for gathered in both_ways(tmp_path, "disable_amp", False, "false"):
        assert gathered.values == {"amp": True}


def test_lowvram_says_each_change_and_lowers_only_what_is_too_high() -> None:
    gathered = gather({"lowvram": True, "batch_size": 6, "resolution": 768, "optimizer": "adamw"}, None)
    assert gathered.values["resolution"] == 512 and gathered.values["batch_size"] == 1
    assert "batch_size 6 -> 1" in gathered.notes[0] and "resolution 768 -> 512" in gathered.notes[0]
    settings_from(gathered.values)
    assert gather({"lowvram": True, "resolution": 448}, None).values["resolution"] == 448


def test_scale_lr_raises_both_rates_by_the_images_of_a_step() -> None:
    values = gather({"scale_lr": True, "batch_size": 4, "grad_accum": 2}, None).values
    assert values["lr"] == pytest.approx(1e-6 * 8**0.55, rel=1e-5)
    assert values["text_encoder_lr"] == pytest.approx(5e-7 * 8**0.55, rel=1e-5)
    values = gather({"scale_lr": True, "batch_size": 4, "lr": 2e-6}, None).values
    assert values["lr"] == pytest.approx(2e-6 * 4**0.55, rel=1e-5) and "text_encoder_lr" not in values


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("/a", ["/a"]),
        (["/a", "/b"], ["/a", "/b"]),
        ({"resolver": "directory", "path": "/a"}, ["/a"]),
        ({"resolver": "multi", "resolvers": [{"resolver": "json", "path": "/a.json"}, "/b"]}, ["/a.json", "/b"]),
    ],
)
def test_every_form_of_a_data_root_is_read(tmp_path: Path, root: object, expected: list[str]) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"data_root": root}))
    assert read_preset(path).values["data_root"] == expected
