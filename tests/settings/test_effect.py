"""Which settings have no effect beside the others: the page hides them, and a run says so of those that were set."""

import pytest

from ed2.models.families.facts import FACTS
from ed2.settings.checks import as_far_as_valid, settings_from
from ed2.settings.effect import idle, without_effect
from ed2.settings.fields import fields
from ed2.settings.files import with_defaults

SD1, SDXL = FACTS["sd1"], FACTS["sdxl"]


@pytest.mark.parametrize(
    ("values", "hidden", "shown"),
    [
        ({}, ("lora_rank", "lora_base", "ema_device", "val_seed"), ("weights_dtype", "ema_decay_rate", "epsilon")),
        ({"method": "lora"}, ("weights_dtype", "freeze_embeddings"), ("lora_rank", "lora_layers")),
        ({"optimizer": "adafactor"}, ("betas", "text_encoder_betas", "epsilon"), ("weight_decay",)),
        ({"optimizer": "adafactor", "text_encoder_optimizer": "adamw"}, (), ("betas", "text_encoder_betas")),
        ({"disable_textenc_training": True}, ("text_encoder_lr", "unfreeze_last_n_layers"), ("lr",)),
        ({"lr_scheduler": "cosine"}, (), ("lr_decay_steps", "text_encoder_lr_decay_steps")),
        ({"val_split_mode": "manual"}, ("auto_split_proportion",), ("manual_data_root", "every_n_epochs")),
        ({"ema_strength_target": 0.1}, ("ema_decay_rate",), ("ema_update_interval",)),
        ({"no_save_ckpt": True}, ("ckpt_format", "export_dtype"), ("keep_last",)),
    ],
)
def test_what_has_no_effect_follows_from_the_other_settings(
    values: dict[str, object], hidden: tuple[str, ...], shown: tuple[str, ...]
) -> None:
    found = idle(as_far_as_valid(values), SD1)
    assert set(hidden) <= found.keys() <= fields().keys()
    assert not found.keys() & {*shown, *values}, "what turns others off stays"


def test_the_second_text_encoder_is_one_of_sdxl() -> None:
    second = {"text_encoder_2_lr", "disable_textenc_2_training"}
    assert second <= idle(settings_from({}), SD1).keys()
    assert not second & idle(settings_from({}), SDXL).keys()
    assert idle(settings_from({}), SD1)["text_encoder_2_lr"] == "SD 1.x models have one text encoder"


def test_only_a_setting_that_was_set_is_reported() -> None:
    assert without_effect(settings_from({}), SD1) == without_effect(with_defaults({}), SD1) == []
    assert without_effect(settings_from({"lora_rank": 8}), SD1) == ["lora_rank has no effect: method is full."]


def test_a_value_that_is_not_allowed_leaves_the_others_in_force() -> None:
    settings = as_far_as_valid(
        {"lr": "fast", "batch_size": 0, "method": "lora", "no_such": 1, "val_split_mode": "manual"}
    )
    assert (settings.model.method, settings.optimizer.lr, settings.data.batch_size) == ("lora", None, 2)
    assert "manual_data_root" not in idle(settings, SD1)
