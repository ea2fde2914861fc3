"""Every flag and key of EveryDream 2, with a value of its own, from the command line and from JSON."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from ed2.errors import SettingsError
from ed2.settings import cli
from ed2.settings.fields import fields
from ed2.settings.files import with_defaults
from ed2.settings.gather import gather
from ed2.settings.legacy import DEAD, FREEZING_KEYS, LATER, OPTIMIZER_KEYS, ORIGINAL, VALIDATION_KEYS
from scripts.settings_page import status_of

Values = dict[str, object]

KEPT: Values = {
    "project_name": "cats", "max_epochs": 41, "seed": 7, "data_root": ["/a", "/b.json"], "resolution": 576,
    "batch_size": 5, "grad_accum": 6, "cond_dropout": 0.11, "flip_p": 0.12, "shuffle_tags": True, "keep_tags": 2,
    "write_schedule": True, "resume_ckpt": "owner/model", "disable_unet_training": True,
    "disable_textenc_training": True, "useadam8bit": True, "lr": 3.1e-6, "lr_scheduler": "cosine",
    "lr_warmup_steps": 13, "lr_decay_steps": 1400, "clip_grad_norm": 0.9, "loss_type": "huber_mse",
    "min_snr_gamma": 5.5, "timestep_start": 15, "timestep_end": 960, "zero_frequency_noise_ratio": 0.021,
    "pyramid_noise_discount": 0.031, "enable_zero_terminal_snr": True, "embedding_perturbation": 1.5, "clip_skip": 2,
    "ema_decay_rate": 0.991, "ema_strength_target": 0.13, "ema_update_interval": 51, "ema_device": "cuda",
    "ema_sample_nonema_model": True, "ema_sample_ema_model": True, "ema_resume_model": "findlast", "amp": False,
    "gradient_checkpointing": True, "attn_type": "slice", "sample_prompts": "/prompts.json", "sample_steps": 210,
    "ckpt_every_n_minutes": 17.5, "save_every_n_epochs": 8, "save_ckpts_from_n_epochs": 9,
    "save_ckpt_dir": "/files", "no_save_ckpt": True, "save_full_precision": True, "no_prepend_last": True,
    "logdir": "/runs", "run_name": "second try", "log_step": 26,
}  # fmt: skip
"""Of train.json and the command line."""

OURS: Values = {
    "device": "cuda:1", "decode_threads": 3, "weights_only": True, "prediction_type": "v_prediction",
    "optimizer": "lion", "text_encoder_lr": 5.1e-7, "betas": [0.8, 0.98], "epsilon": 1e-7, "weight_decay": 0.02,
    "text_encoder_optimizer": "adafactor", "text_encoder_lr_scheduler": "linear", "text_encoder_lr_warmup_steps": 14,
    "text_encoder_lr_decay_steps": 1500, "text_encoder_betas": [0.7, 0.97], "text_encoder_epsilon": 1e-6,
    "text_encoder_weight_decay": 0.03, "unfreeze_last_n_layers": 3, "freeze_embeddings": True,
    "freeze_final_layer_norm": True, "amp_dtype": "bf16", "channels_last": True, "torch_compile": True,
    "val_split_mode": "automatic", "auto_split_proportion": 0.16, "manual_data_root": "/validation",
    "extra_manual_datasets": ["dogs=/dogs", "cows=/cows"], "stabilize_training_loss": True,
    "stabilize_split_proportion": 0.17, "every_n_epochs": 0.25, "val_seed": 556, "val_batch_size": 4,
    "ckpt_format": "ckpt", "deterministic": True, "alpha_background": "#80ff00",
}  # fmt: skip
"""That the original had in its other files under other names, or not at all."""

BASE: Values = {
    "optimizer": "lion", "lr": 1.1e-6, "lr_scheduler": "polynomial", "lr_warmup_steps": 21, "lr_decay_steps": 2200,
    "betas": [0.85, 0.985], "epsilon": 2e-8, "weight_decay": 0.04,
}  # fmt: skip
"""Of either section of optimizer.json."""
FREEZING: Values = {"unfreeze_last_n_layers": 4, "freeze_embeddings": True, "freeze_final_layer_norm": True}
VALIDATION: Values = {
    "batch_size": 3, "seed": 557, "val_split_mode": "automatic", "auto_split_proportion": 0.18,
    "val_split_proportion": 0.18, "manual_data_root": "/validation", "val_data_root": "/validation",
    "extra_manual_datasets": {"dogs": "/dogs"}, "stabilize_training_loss": True, "stabilize_split_proportion": 0.19,
    "every_n_epochs": 2.5,
}  # fmt: skip

ALIASES: Mapping[str, tuple[object, Values]] = {
    "disable_amp": (True, {"amp": False}),
    "gpuid": (2, {"device": "cuda:2"}),
    "disable_xformers": (True, {"attn_type": "sdp"}),
    "train_sampler": ("pndm", {}),
    "lowvram": (True, {"gradient_checkpointing": True, "batch_size": 1, "useadam8bit": True}),
    "scale_lr": (True, {"lr": 1.46409e-6, "text_encoder_lr": 7.32043e-7}),
}
"""With what they change: scale_lr by 2 images a step to the power of 0.55."""


@pytest.fixture(scope="module")
def plain() -> Values:
    """Every setting when nothing is given."""
    return with_defaults({}).flat()


def as_flag(name: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *map(str, value if isinstance(value, list) else [value])]


def both_ways(folder: Path, name: str, value: object) -> list[tuple[Values, list[str]]]:
    """All settings in effect, and what was said, with one given as a flag and with one given in a file."""
    file = folder / "given.json"
    file.write_text(json.dumps({name: value}))
    found = [gather(cli.parse(as_flag(name, value)).values, None), gather({}, file)]
    return [(with_defaults(gathered.values).flat(), list(gathered.notes)) for gathered in found]


@pytest.mark.parametrize(("name", "value"), [*KEPT.items(), *OURS.items()], ids=[*KEPT, *OURS])
def test_a_setting_takes_its_value_from_flag_and_file_and_moves_no_other(
    tmp_path: Path, plain: Values, name: str, value: object
) -> None:
    assert value != plain[name]
    for flat, notes in both_ways(tmp_path, name, value):
        assert flat == {**plain, name: value}
        assert not notes


@pytest.mark.parametrize("name", ALIASES)
def test_an_alias_moves_what_it_stands_for_from_flag_and_file_and_no_other(
    tmp_path: Path, plain: Values, name: str
) -> None:
    value, moved = ALIASES[name]
    for flat, notes in both_ways(tmp_path, name, value):
        assert flat == {**plain, **moved}
        assert all(note.startswith(name) for note in notes)


@pytest.mark.parametrize(("name", "content"), [("optimizer_config", {"base": BASE}), ("validation_config", VALIDATION)])
def test_a_file_of_the_original_may_be_named_by_flag_and_by_file(
    tmp_path: Path, plain: Values, name: str, content: Values
) -> None:
    file = tmp_path / "named.json"
    file.write_text(json.dumps(content))
    by_flag, by_file = both_ways(tmp_path, name, str(file))
    assert by_flag == by_file and by_flag[0] != plain
    (note,) = by_flag[1]
    assert note.startswith("Read named.json of EveryDream 2:\n  used: ")


@pytest.mark.parametrize(
    ("section", "prefix", "given"),
    [("base", "", BASE), ("text_encoder_overrides", "text_encoder_", BASE), ("text_encoder_freezing", "", FREEZING)],
)
def test_each_key_of_an_optimizer_file_moves_its_setting_and_no_other(
    tmp_path: Path, plain: Values, section: str, prefix: str, given: Values
) -> None:
    for name, value in given.items():
        file = tmp_path / "optimizer.json"
        file.write_text(json.dumps({section: {name: value}}))
        found = with_defaults(gather({"optimizer_config": str(file)}, None).values).flat()
        assert found == {**plain, prefix + name: value}, name


def test_each_key_of_a_validation_file_moves_its_setting_and_no_other(tmp_path: Path, plain: Values) -> None:
    for name, value in VALIDATION.items():
        file = tmp_path / "validation.json"
        file.write_text(json.dumps({name: value}))
        found = with_defaults(gather({"validation_config": str(file)}, None).values).flat()
        ours = ["dogs=/dogs"] if name == "extra_manual_datasets" else value
        # A validation file that does not say how images are split means automatically.
        assert found == {**plain, "val_split_mode": "automatic", VALIDATION_KEYS[name]: ours}, name


def test_freezing_the_front_is_training_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "optimizer.json"
    file.write_text('{"text_encoder_freezing": {"freeze_front_n_layers": -2}}')
    assert gather({"optimizer_config": str(file)}, None).values == {"unfreeze_last_n_layers": 2}


def test_validation_that_is_off_stays_off(tmp_path: Path) -> None:
    file = tmp_path / "validation.json"
    file.write_text('{"validate_training": false, "val_split_mode": "automatic"}')
    assert gather({"validation_config": str(file)}, None).values == {"val_split_mode": "none"}


def test_no_name_of_the_original_is_left_out_here() -> None:
    elsewhere = {"config", "save_optimizer", "optimizer_config", "validation_config"}
    assert set(ORIGINAL) == {*KEPT, *ALIASES, *elsewhere, *(set(DEAD) | set(LATER)) & set(ORIGINAL)}
    assert {*KEPT, *OURS} <= set(fields())
    later = {name for name in OPTIMIZER_KEYS if name not in fields()}
    assert {*BASE, *later} == set(OPTIMIZER_KEYS) and {*FREEZING, "freeze_front_n_layers"} == set(FREEZING_KEYS)
    assert set(VALIDATION) == set(VALIDATION_KEYS)
    assert all(status_of(name) in ("kept", "alias", "dead", "later") for name in ORIGINAL)


@pytest.mark.parametrize("name", ["d0", "decouple", "momentum", "no_prox", "growth_rate", "safeguard_warmup"])
def test_a_key_of_an_optimizer_that_is_not_supported_yet_is_reported_by_its_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / "optimizer.json"
    file.write_text(json.dumps({"base": {name: 1}}))
    gathered = gather({"optimizer_config": str(file)}, None)
    assert gathered.values == {}
    assert gathered.notes == (f"base.{name} has no effect: it is not supported yet.",)


def test_a_file_of_a_chain_loads_and_the_chain_is_said_to_be_unsupported(tmp_path: Path) -> None:
    chained = {"resume_ckpt": "findlast", "max_epochs": 7, "resolution": 512}
    (tmp_path / "chain1.json").write_text(json.dumps(chained))
    gathered = gather({}, tmp_path / "chain1.json")
    assert gathered.values == chained
    assert [note.partition(";")[0] for note in gathered.notes] == ["chain1.json is one file of a chain"]


@pytest.mark.parametrize(
    ("file", "content"),
    [("chain.json", '[{"max_epochs": 2}, {"max_epochs": 3}]'), ("chain0.bat", "python train.py --config chain0.json")],
)
def test_a_chain_itself_is_refused_by_name_as_not_supported_yet(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(SettingsError, match=rf"{file}: it is a chain of several runs, which is not supported yet"):
        gather({}, tmp_path / file)
