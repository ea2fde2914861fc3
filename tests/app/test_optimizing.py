"""Settings of optimizers, losses, noise and averages: what they take, and what is said of those without effect."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ed2.app import preflight
from ed2.app.checks.space import disk_forecast
from ed2.app.optimizing import optimizer_notes, options_of
from ed2.app.preflight import ModelSizes, model_sizes, require_parts
from ed2.app.run_settings import saved_settings
from ed2.errors import SettingsError
from ed2.models.families.facts import FACTS, FamilyFacts
from ed2.settings.checks import settings_from
from ed2.settings.cli import parse
from ed2.settings.effect import without_effect
from ed2.settings.gather import gather
from ed2.training.schedules import Schedule, schedule_of

CPU = torch.device("cpu")
CARD = torch.device("cuda")
SD1, SDXL = FACTS["sd1"], FACTS["sdxl"]


def plans(family: FamilyFacts = SD1, **values: object) -> dict[str, tuple[str, float]]:
    settings = settings_from(values)
    parts = settings.trained_networks(family)
    return {part.name: (settings.optimizer_of(part, on_card=False), settings.rate_of(part)) for part in parts}


@pytest.mark.parametrize(
    ("values", "unet", "text_encoder"),
    [
        ({}, ("adamw", 1e-6), ("adamw", 5e-7)),
        ({"lr": 2e-6}, ("adamw", 2e-6), ("adamw", 1e-6)),
        ({"lr": 2e-6, "text_encoder_lr": 3e-7}, ("adamw", 2e-6), ("adamw", 3e-7)),
        ({"text_encoder_lr": 3e-7}, ("adamw", 1e-6), ("adamw", 3e-7)),
        ({"optimizer": "prodigy"}, ("prodigy", 1.0), ("prodigy", 0.5)),
        ({"useadam8bit": True}, ("adamw8bit", 1e-6), ("adamw8bit", 5e-7)),
        ({"useadam8bit": True, "text_encoder_optimizer": "lion"}, ("adamw8bit", 1e-6), ("lion", 5e-7)),
    ],
)
def test_each_network_gets_its_optimizer_and_rate(
    values: dict[str, object], unet: object, text_encoder: object
) -> None:
    assert plans(**values) == {"unet": unet, "text_encoder": text_encoder}


@pytest.mark.parametrize(
    ("values", "unet", "first", "second"),
    [
        ({}, ("adamw", 1e-6), ("adamw", 5e-7), ("adamw", 5e-7)),
        ({"text_encoder_2_lr": 1e-7}, ("adamw", 1e-6), ("adamw", 5e-7), ("adamw", 1e-7)),
        ({"text_encoder_optimizer": "lion"}, ("adamw", 1e-6), ("lion", 5e-7), ("lion", 5e-7)),
        ({"optimizer": "prodigy"}, ("prodigy", 1.0), ("prodigy", 0.5), ("prodigy", 0.5)),
        ({"optimizer": "prodigy", "text_encoder_2_lr": 0.1}, ("prodigy", 1.0), ("prodigy", 0.5), ("prodigy", 0.1)),
        ({"optimizer": "prodigy", "text_encoder_lr": 0.2}, ("prodigy", 1.0), ("prodigy", 0.2), ("prodigy", 0.2)),
    ],
)
def test_a_second_text_encoder_is_trained_like_the_first_except_for_its_own_rate(
    values: dict[str, object], unet: object, first: object, second: object
) -> None:
    assert plans(SDXL, **values) == {"unet": unet, "text_encoder": first, "text_encoder_2": second}
    notes = optimizer_notes(settings_from(values), SDXL, CPU)
    assert "Optimizer for the second text encoder: " in " ".join(notes)


def test_scale_lr_scales_the_rate_of_the_second_text_encoder_too() -> None:
    found = gather({"scale_lr": True, "lr": 1e-6, "text_encoder_2_lr": 1e-7, "batch_size": 4, "grad_accum": 1}, None)
    assert found.values["text_encoder_2_lr"] == pytest.approx(1e-7 * 4**0.55, rel=1e-5)


def test_a_run_from_before_the_text_encoder_got_half_keeps_its_rate() -> None:
    settings = {"lr": 1e-4, "text_encoder_lr": None}
    assert saved_settings({"settings": settings})["text_encoder_lr"] == 1e-4
    assert saved_settings({"settings": settings, "text_encoder_lr": 5e-5})["text_encoder_lr"] is None
    assert saved_settings({"settings": {**settings, "lr": None}})["text_encoder_lr"] is None


def test_the_text_encoders_own_settings_win_over_the_common_ones() -> None:
    values: dict[str, object] = {
        "betas": [0.8, 0.9],
        "weight_decay": 0.1,
        "lr_scheduler": "cosine",
        "text_encoder_weight_decay": 0.0,
        "text_encoder_lr_scheduler": "linear",
        "text_encoder_lr_warmup_steps": 7,
    }
    settings = settings_from(values)
    unet, text = (options_of(settings, part) for part in settings.trained_networks(SD1))
    assert (unet.betas, unet.weight_decay) == ((0.8, 0.9), 0.1)
    assert (text.betas, text.weight_decay) == ((0.8, 0.9), 0.0)
    first, second = (schedule_of(settings, part, 100) for part in settings.trained_networks(SD1))
    assert (first.warmup_steps, second.warmup_steps) == (2, 7)
    assert (first.curve(0.5), second.curve(0.25)) == pytest.approx((0.5, 0.75))
    assert [note.split(", ")[-1] for note in optimizer_notes(settings, SD1, CPU)] == ["cosine.", "linear."]


def test_a_schedule_ends_where_training_ends_unless_set_otherwise() -> None:
    def unet_schedule(steps: int, **values: object) -> Schedule:
        return schedule_of(settings_from(values), SD1.part("unet"), steps)

    assert unet_schedule(40, lr_scheduler="cosine", lr_warmup_steps=0).decay_steps == 40
    assert unet_schedule(40, lr_scheduler="cosine", lr_decay_steps=90).decay_steps == 90
    assert unet_schedule(1000).warmup_steps == 0


def test_the_default_optimizer_on_a_gpu_is_eight_bit() -> None:
    assert "Optimizer for the UNet: adamw8bit," in " ".join(optimizer_notes(settings_from({}), SD1, CARD))


def test_a_rate_that_holds_prodigy_back_is_reported() -> None:
    notes = optimizer_notes(settings_from({"optimizer": "prodigy", "lr": 1e-6}), SD1, CPU)
    assert any("Prodigy finds the rate of the UNet itself" in note for note in notes)


def test_betas_are_two_numbers_on_the_command_line() -> None:
    assert parse(["--betas", "0.8", "0.99"]).values == {"betas": [0.8, 0.99]}
    assert parse(["--betas", "none"]).values == {"betas": None}
    with pytest.raises(SettingsError, match="betas"):
        settings_from({"betas": [0.9]})
    with pytest.raises(SettingsError, match="betas"):
        settings_from({"betas": [0.9, 1.0]})


def test_an_empty_range_of_timesteps_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"timestep_start.*below timestep_end"):
        settings_from({"timestep_start": 500, "timestep_end": 500})


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"disable_textenc_training": True, "freeze_embeddings": True}, "freeze_embeddings"),
        ({"disable_textenc_training": True, "text_encoder_lr": 1e-7}, "text_encoder_lr"),
        ({"unfreeze_last_n_layers": 2, "freeze_embeddings": True}, "freeze_embeddings"),
        ({"unfreeze_last_n_layers": 1, "clip_skip": 2}, "unfreeze_last_n_layers"),
        ({"lr_decay_steps": 100}, "lr_decay_steps"),
        ({"optimizer": "lion", "epsilon": 1e-6}, "epsilon"),
        ({"optimizer": "adafactor", "betas": [0.9, 0.9]}, "betas"),
        ({"ema_update_interval": 10}, "ema_update_interval"),
        ({"ema_sample_ema_model": True}, "ema_sample_ema_model"),
        ({"ema_decay_rate": 0.9, "ema_strength_target": 0.1}, "ema_decay_rate"),
        ({"no_save_ckpt": True, "save_full_precision": True}, "save_full_precision"),
        ({"deterministic": True, "cudnn_benchmark": True}, "cudnn_benchmark"),
    ],
)
def test_a_setting_without_effect_is_reported(values: dict[str, object], name: str) -> None:
    assert any(note.startswith(f"{name} has no effect: ") for note in without_effect(settings_from(values), SD1))


def test_settings_that_work_together_are_not_reported() -> None:
    values: dict[str, object] = {"lr_scheduler": "cosine", "lr_decay_steps": 9, "ema_decay_rate": 0.9}
    assert without_effect(settings_from(values), SD1) == []


def test_a_missing_package_is_named_before_the_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(preflight.MODULES, "prodigy", "no_such_module")
    require_parts(settings_from({"optimizer": "schedulefree"}))
    with pytest.raises(SettingsError, match=r"text_encoder_optimizer: prodigy needs .*\./launch\.sh add prodigy"):
        require_parts(settings_from({"text_encoder_optimizer": "prodigy"}))


def test_the_disk_forecast_counts_each_optimizers_state_and_the_average() -> None:
    sizes = ModelSizes("sd1", {"unet": 1000, "text_encoder": 100, "vae": 10})

    def forecast(**values: object) -> int:
        return disk_forecast(settings_from({"no_save_ckpt": True, **values}), sizes)["checkpoint_bytes"]

    assert forecast(optimizer="adamw") == 4 * 1100 + 2 * 10 + 8 * 1100
    with_lion = forecast(optimizer="adamw", text_encoder_optimizer="lion8bit")
    assert with_lion == pytest.approx(4 * 1100 + 2 * 10 + 8 * 1000 + 100, abs=3)  # and a scale for each 256 numbers
    averaged = forecast(optimizer="adafactor", ema_decay_rate=0.9) - forecast(optimizer="adafactor")
    assert averaged == 4 * 1100 + 2 * 10 + 4 * 1100


def test_the_disk_forecast_counts_both_text_encoders() -> None:
    sizes = ModelSizes("sdxl", {"unet": 1000, "text_encoder": 100, "text_encoder_2": 200, "vae": 10})

    def forecast(**values: object) -> int:
        common: dict[str, object] = {"no_save_ckpt": True, "optimizer": "adamw"}
        return disk_forecast(settings_from({**common, **values}), sizes)["checkpoint_bytes"]

    assert forecast() == 4 * 1300 + 2 * 10 + 8 * 1300
    assert forecast(disable_textenc_2_training=True) == 4 * 1100 + 2 * 210 + 8 * 1100
    assert forecast(disable_textenc_training=True) == 4 * 1000 + 2 * 310 + 8 * 1000


def test_a_single_file_is_planned_by_its_header(tmp_path: Path) -> None:
    tensors = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
        "first_stage_model.encoder.conv_in.weight": torch.zeros(8, 3, 3, 3),
        "cond_stage_model.model.token_embedding.weight": torch.zeros(5, 4),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    sizes = model_sizes(settings_from({"resume_ckpt": str(tmp_path / "model.safetensors")}))
    assert (sizes.family, sizes.problems) == ("sd2", ())
    assert sizes.parameters == {"unet": 288, "vae": 216, "text_encoder": 20}
    save_file({"emb_params": torch.zeros(2, 3)}, tmp_path / "word.safetensors")
    told = model_sizes(settings_from({"resume_ckpt": str(tmp_path / "word.safetensors")}))
    assert "cannot be trained here" in str(told.problems[0])
