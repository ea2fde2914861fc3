"""`--check` and `--suggest` on memory: against a card that is named, or none."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ed2.app.command import main
from ed2.app.preflight import model_sizes
from ed2.app.suggest.answer import out_of_memory_fix
from ed2.settings.checks import settings_from
from ed2.vram.card import NO_CARD, Card, card_for

no_card_here = pytest.mark.skipif(card_for("auto") != NO_CARD, reason="there is a card")
MEMORY_KEYS = {"expected_gb", "low_gb", "high_gb", "peak", "parts", "verdict", "card_gb"}


def told(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> str:
    assert main([str(word) for word in argv]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_check_reports_the_memory_of_the_contract(capsys: pytest.CaptureFixture[str], images: Path) -> None:
    flags = ("--check", "--data_root", images, "--vram_gb", 12, "--batch_size", 8)
    memory = json.loads(told(capsys, *flags, "--json"))["memory"]
    assert memory.keys() == MEMORY_KEYS
    assert (memory["verdict"], memory["card_gb"]) == ("does not fit", 12)
    assert memory["low_gb"] < memory["expected_gb"] < memory["high_gb"]
    assert sum(memory["parts"].values()) == pytest.approx(memory["expected_gb"], abs=0.05)
    text = told(capsys, *flags)
    assert f"about {memory['expected_gb']:.1f} GB" in text
    assert "Does not fit." in text
    assert "To find settings that fit, use --suggest." in text
    assert "at the end of the forward pass: weights 3.8" in text


@no_card_here
def test_without_a_gpu_there_is_no_verdict(capsys: pytest.CaptureFixture[str], images: Path) -> None:
    memory = json.loads(told(capsys, "--check", "--json", "--data_root", images))["memory"]
    assert (memory["verdict"], memory["card_gb"]) == (None, None)
    assert memory["parts"]["autocast_copies"] == 0
    assert "on the CPU" in told(capsys, "--check", "--data_root", images)


@no_card_here
def test_suggesting_without_a_gpu_asks_for_its_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Give a GPU's memory in GB: --vram_gb 12" in told(capsys, "--suggest", code=2)


@pytest.mark.parametrize("size", ["big", "-3", "0", "nan", "1e9"])
def test_an_invalid_gpu_size_is_refused(capsys: pytest.CaptureFixture[str], size: str) -> None:
    assert f"{size} is not a valid size" in told(capsys, "--suggest", f"--vram_gb={size}", code=2)


def test_suggest_lists_changes_with_savings_and_costs(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--suggest", "--vram_gb", 12, "--batch_size", 4)
    answer = json.loads(told(capsys, *flags, "--json"))
    assert answer["fits"] is True
    (change,) = answer["changes"]
    assert change["settings"] == {"gradient_checkpointing": True}
    assert change["before"] == {"gradient_checkpointing": False}
    saved = answer["before"]["expected_gb"] - answer["after"]["expected_gb"]
    assert change["saves_gb"] == pytest.approx(saved, abs=0.02)
    assert answer["after"]["verdict"] == "fits"
    text = told(capsys, *flags)
    assert f"gradient_checkpointing off -> on: saves {change['saves_gb']:.1f} GB; a quarter slower" in text


def test_suggest_says_if_nothing_fits_and_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    answer = json.loads(told(capsys, "--suggest", "--vram_gb", 5, "--json"))
    assert (answer["fits"], answer["changes"]) == (False, [])
    assert "A card with 8 GB would be enough" in told(capsys, "--suggest", "--vram_gb", 5)


def test_the_number_of_images_limits_the_suggested_batch(capsys: pytest.CaptureFixture[str], images: Path) -> None:
    assert "room for batch_size 8" in told(capsys, "--suggest", "--vram_gb", 24)
    limited = told(capsys, "--suggest", "--vram_gb", 24, "--data_root", images)
    assert "room for batch_size" not in limited and "batch_size 1: at most a tenth of 6 images" in limited


def test_a_missing_model_is_planned_as_the_named_family(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--suggest", "--vram_gb", 24, "--json", "--resume_ckpt", "nobody/nothing")
    first, second, large = (
        json.loads(told(capsys, *flags, *more))
        for more in ((), ("--model_family", "sd2"), ("--model_family", "sdxl", "--resolution", 1024))
    )
    assert "SD 1.x" in first["problems"][0]
    assert "SD 2.x" in second["problems"][0]
    assert first["before"]["expected_gb"] < second["before"]["expected_gb"] < large["before"]["expected_gb"]


def test_a_large_model_is_recognised_by_its_file_and_planned(tmp_path: Path) -> None:
    tensors = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
        "first_stage_model.encoder.conv_in.weight": torch.zeros(8, 3, 3, 3),
        "conditioner.embedders.0.transformer.text_model.x": torch.zeros(3),
        "conditioner.embedders.1.model.token_embedding.weight": torch.zeros(5, 4),
    }
    save_file(tensors, tmp_path / "big.safetensors")
    sizes = model_sizes(settings_from({"resume_ckpt": str(tmp_path / "big.safetensors")}))
    assert sizes.family == "sdxl"
    assert sizes.parameters == {"unet": 288, "vae": 216, "text_encoder": 3, "text_encoder_2": 20}


def test_a_gpu_is_found_without_being_initialised() -> None:
    assert card_for("cpu") == NO_CARD
    assert card_for("cuda:99") == NO_CARD
    assert Card.of_size(12).free_gb == pytest.approx(11.7)


@pytest.mark.parametrize(
    ("settings", "on_gpu", "flags"),
    [
        ({}, True, ["--batch_size 1", "--weights_dtype bf16", "--disable_textenc_training"]),
        ({"optimizer": "adamw"}, True, ["--optimizer adamw8bit", "--batch_size 1", "--weights_dtype bf16"]),
        ({"amp_dtype": "fp16"}, True, ["--batch_size 1", "--disable_textenc_training", "--resolution 256"]),
        (
            {"model_family": "sdxl", "resolution": 1024, "batch_size": 1, "gradient_checkpointing": True},
            True,
            ["--fused_backward", "--weights_dtype bf16", "--optimizer adafactor"],
        ),
        ({}, False, ["--optimizer adamw8bit", "--batch_size 1", "--disable_textenc_training"]),
        (
            {"batch_size": 1, "disable_textenc_training": True, "resolution": 256, "amp_dtype": "fp16"},
            True,
            [],
        ),
    ],
)
def test_after_running_out_of_memory_the_advice_names_what_saves_memory(
    settings: dict[str, object], on_gpu: bool, flags: list[str]
) -> None:
    fix = out_of_memory_fix(settings_from(settings), on_gpu=on_gpu)
    assert re.findall(r"--\w+(?: \w+)?", fix) == flags
    assert ("close other programs" in fix) == (len(flags) < 3)
