"""The schema: names, defaults, meanings."""

import pytest

from ed2.errors import SettingsError
from ed2.models.families.facts import FACTS
from ed2.settings.checks import nothing_trained, settings_from
from ed2.settings.effect import without_effect
from ed2.settings.fields import fields, groups
from ed2.settings.schema import DEFAULT_LR, Settings

SD1, SDXL = FACTS["sd1"], FACTS["sdxl"]


def test_names_are_unique_over_all_groups() -> None:
    names = [name for group in groups().values() for name in group.model_fields]
    assert len(names) == len(set(names))


def test_every_setting_has_a_help_and_every_group_a_title() -> None:
    assert all(spec.help for spec in fields().values())
    assert all(group.__doc__ for group in groups().values())


def test_saving_every_30_minutes_is_the_default_and_off_when_only_epochs_are_given() -> None:
    def minutes(**values: object) -> float:
        return settings_from(values).checkpoint.minutes

    assert minutes() == 30
    assert minutes(save_every_n_epochs=5) == 0
    assert minutes(save_every_n_epochs=5, ckpt_every_n_minutes=10) == 10
    assert minutes(ckpt_every_n_minutes=0) == 0


@pytest.mark.parametrize(
    ("values", "unet", "text_encoder"),
    [
        ({}, 1e-6, 5e-7),
        ({"lr": 2e-6}, 2e-6, 1e-6),
        ({"text_encoder_lr": 3e-7}, 1e-6, 3e-7),
        ({"lr": 2e-6, "text_encoder_lr": 3e-7}, 2e-6, 3e-7),
    ],
)
def test_the_text_encoder_gets_half_of_lr_unless_it_has_its_own(
    values: dict[str, object], unet: float, text_encoder: float
) -> None:
    optimizer = settings_from(values).optimizer
    rates = [optimizer.lr_of(part, DEFAULT_LR["full"]) for part in ("unet", "text_encoder")]
    assert rates == [unet, text_encoder]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"disable_unet_training": True, "disable_textenc_training": True}, "everything is frozen"),
        ({"useadam8bit": True, "optimizer": "adamw"}, "selects adamw8bit"),
        ({"amp": False, "amp_dtype": "bf16"}, "mixed precision .amp. is off"),
        ({"save_full_precision": True, "export_dtype": "fp16"}, "save_full_precision: it means export_dtype fp32"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        settings_from(values)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ({}, "fp16"),
        ({"save_full_precision": True}, "fp32"),
        ({"save_full_precision": True, "export_dtype": "fp32"}, "fp32"),
        ({"export_dtype": "bf16"}, "bf16"),
    ],
)
def test_a_single_file_is_in_fp16_unless_told_otherwise(values: dict[str, object], dtype: str) -> None:
    assert settings_from(values).checkpoint.single_file_dtype == dtype


def test_settings_without_effect_are_reported() -> None:
    settings = settings_from({"disable_textenc_training": True, "text_encoder_lr": 1e-7})
    assert without_effect(settings, SD1) == ["text_encoder_lr has no effect: the text encoder is frozen."]


BOTH = ["text_encoder", "text_encoder_2"]


@pytest.mark.parametrize(
    ("values", "sd1", "sdxl"),
    [
        ({}, ["unet", "text_encoder"], ["unet", *BOTH]),
        ({"disable_textenc_training": True}, ["unet"], ["unet"]),
        ({"disable_textenc_2_training": True}, ["unet", "text_encoder"], ["unet", "text_encoder"]),
        (
            {"disable_textenc_training": True, "disable_textenc_2_training": False},
            ["unet"],
            ["unet", "text_encoder_2"],
        ),
        ({"disable_unet_training": True}, ["text_encoder"], BOTH),
    ],
)
def test_the_trained_parts_follow_from_the_switches_and_the_family(
    values: dict[str, object], sd1: list[str], sdxl: list[str]
) -> None:
    model = settings_from(values).model
    assert (model.trained_parts(SD1), model.trained_parts(SDXL)) == (sd1, sdxl)


def test_settings_that_train_only_a_part_that_the_model_lacks_are_a_problem_of_that_model() -> None:
    switches = {"disable_unet_training": True, "disable_textenc_training": True, "disable_textenc_2_training": False}
    settings = settings_from(switches)
    assert nothing_trained(settings, SDXL) == []
    assert "everything is frozen (UNet, text encoder)" in nothing_trained(settings, SD1)[0].what


def test_the_second_text_encoder_has_the_rate_of_the_first_unless_it_has_its_own() -> None:
    def rates(**values: object) -> list[float]:
        return [settings_from(values).optimizer.lr_of(part, DEFAULT_LR["full"]) for part in ("unet", *BOTH)]

    assert rates(lr=2e-6) == [2e-6, 1e-6, 1e-6]
    assert rates(text_encoder_lr=3e-7) == [1e-6, 3e-7, 3e-7]
    assert rates(text_encoder_lr=3e-7, text_encoder_2_lr=1e-7) == [1e-6, 3e-7, 1e-7]
    assert rates(text_encoder_2_lr=1e-7) == [1e-6, 5e-7, 1e-7]


def test_settings_of_text_encoders_of_sdxl_are_reported_where_they_change_nothing() -> None:
    frozen = settings_from({"disable_textenc_training": True, "text_encoder_lr": 1e-7})
    assert without_effect(frozen, SDXL) == ["text_encoder_lr has no effect: both text encoders are frozen."]
    first = {"disable_textenc_2_training": True, "unfreeze_last_n_layers": 1}
    unused = ["unfreeze_last_n_layers has no effect: SDXL does not use this layer."]
    assert [note for note in without_effect(settings_from(first), SDXL) if "unfreeze" in note] == unused
    skipped = without_effect(settings_from({**first, "clip_skip": 3, "unfreeze_last_n_layers": 2}), SDXL)
    assert "unfreeze_last_n_layers has no effect: clip_skip 3 skips these layers." in skipped
    assert not [
        note for note in without_effect(settings_from({**first, "unfreeze_last_n_layers": 2}), SDXL) if "unf" in note
    ]


def test_settings_of_a_second_text_encoder_that_is_not_there_or_frozen_are_reported() -> None:
    own = {"text_encoder_2_lr": 1e-7, "disable_textenc_2_training": True}
    why = "SD 1.x models have one text encoder."
    assert without_effect(settings_from(own), SD1) == [
        f"disable_textenc_2_training has no effect: {why}",
        f"text_encoder_2_lr has no effect: {why}",
    ]
    frozen = ["text_encoder_2_lr has no effect: the second text encoder is frozen."]
    assert without_effect(settings_from(own), SDXL) == frozen
    second = {"disable_textenc_training": True, "disable_textenc_2_training": False, "text_encoder_2_lr": 1e-7}
    assert without_effect(settings_from(second), SDXL) == []
    assert without_effect(settings_from({**second, "unfreeze_last_n_layers": 2}), SDXL) == []


def test_replaced_changes_settings_by_their_flat_names() -> None:
    changed = Settings().replaced(seed=7, batch_size=5)
    assert (changed.run.seed, changed.data.batch_size, changed.run.max_epochs) == (7, 5, 300)


def test_a_lora_has_a_default_rate_of_its_own() -> None:
    given, empty = settings_from({"method": "lora", "lr": 3e-5}), settings_from({"method": "lora"})
    assert [settings.optimizer.lr_of("unet", DEFAULT_LR["lora"]) for settings in (given, empty)] == [3e-5, 1e-4]
    assert empty.optimizer.lr_of("text_encoder", DEFAULT_LR["lora"]) == 5e-5
    assert (empty.lora.lora_rank, empty.lora.alpha) == (16, 16)
