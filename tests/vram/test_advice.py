"""Suggestions: the rules they follow, and that they fit."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st

from ed2.app.preflight import model_sizes
from ed2.models.families.facts import FACTS
from ed2.settings.checks import contradictions
from ed2.settings.files import PROGRAM_DIR, read_preset, with_defaults
from ed2.settings.schema import Settings
from ed2.vram.advice import Advice, suggest
from ed2.vram.card import Card
from ed2.vram.memory_options import Search
from ed2.vram.overhead import Overhead
from ed2.vram.plan import MemoryPlan, plan_memory
from ed2.vram.shapes import shape_of
from tests.vram.test_plan import settings

PRESETS = sorted(path.stem for path in (PROGRAM_DIR / "presets").glob("*gb.json"))


def advice(card_gb: float, *, family: str = "sd1", images: int | None = None, **changes: object) -> Advice:
    return suggest(Search(shape_of(family), Card.of_size(card_gb), images), Settings().replaced(**changes))


def changed(given: Advice) -> dict[str, object]:
    return {name: value for change in given.changes for name, value in change.after.items()}


@checked(deadline=None)  # a busy computer is not a failure
@given(st.sampled_from(tuple(FACTS)), settings, st.sampled_from([6, 8, 10, 12, 16, 24, 48, 80]))
def test_suggested_settings_fit_the_plan_or_nothing_is_said_to_fit(family: str, given: Settings, card_gb: int) -> None:
    card = Card.of_size(card_gb)
    found = suggest(Search(shape_of(family), card), given)
    plan = plan_memory(found.settings, shape_of(family), card=card)
    if found.fits:
        assert plan.verdict(card) == "fits"
        assert given.replaced(**changed(found)) == found.settings
        assert not found.needed
        assert not contradictions(found.settings) or contradictions(given)
    else:
        assert "Nothing fits" in found.needed[0]
        assert found.changes == ()
        assert found.settings == given


def test_sd15_at_512_trains_on_12_gb_with_checkpointing_and_always_with_it() -> None:
    for batch in (1, 2, 4):
        found = advice(12, batch_size=batch)
        assert changed(found) == {"gradient_checkpointing": True}
        assert found.fits
    assert changed(advice(12, batch_size=6)) == {"gradient_checkpointing": True, "batch_size": 4}
    assert changed(advice(11)) == {
        "gradient_checkpointing": True,
        "fused_backward": True,
    }


@pytest.mark.parametrize(
    ("resolution", "is_on"),
    [(512, False), (576, False), (640, False), (768, False), (832, True), (1024, True)],
)
def test_on_24_gb_checkpointing_is_off_below_640_and_on_above_768(resolution: int, is_on: bool) -> None:
    for begin in (False, True):
        found = advice(24, resolution=resolution, gradient_checkpointing=begin)
        assert found.fits
        assert found.settings.memory.gradient_checkpointing is is_on


def test_between_640_and_768_the_high_estimate_decides() -> None:
    assert not advice(
        24, resolution=704, batch_size=5, gradient_checkpointing=True
    ).settings.memory.gradient_checkpointing
    assert advice(24, resolution=704, batch_size=8).settings.memory.gradient_checkpointing


def test_the_learned_overhead_of_a_gpu_counts_in_its_suggestions() -> None:
    learnt = Overhead(reserved=(1.1, 1.15, 1.2), context_gb=(0.9, 1.0, 1.1), is_measured=True)
    found = suggest(Search(shape_of("sd1"), Card.of_size(24), overhead=learnt), Settings().replaced(batch_size=16))
    assert found.fits
    assert found.after.is_measured
    assert found.settings.data.batch_size < advice(24, batch_size=16).settings.data.batch_size


def test_if_nothing_fits_the_advice_names_what_would_fit() -> None:
    found = advice(5)
    assert not found.fits
    text = " ".join(found.needed)
    assert "full fine-tune" in text
    assert "A card with 8 GB would be enough" in text
    assert "LoRA" in text


def test_no_batch_above_8_or_a_tenth_of_the_images_is_suggested() -> None:
    assert "batch_size 8" in advice(24).room
    assert "batch_size 5" in advice(24, images=59).room
    assert advice(24, images=15).room == ""
    assert advice(24, batch_size=8).room == ""


def test_the_cheapest_changes_come_first_and_unneeded_ones_are_left_out() -> None:
    found = advice(12, optimizer="adamw", amp=False, batch_size=4)
    assert list(changed(found)) == ["gradient_checkpointing", "amp", "optimizer"]
    assert all(change.saves_gb > 0 for change in found.changes)
    assert list(changed(advice(24, amp=False, batch_size=6, resolution=768))) == ["amp", "gradient_checkpointing"]
    assert list(changed(advice(12, resolution=1024, batch_size=8)))[:2] == ["gradient_checkpointing", "batch_size"]


def test_accumulated_gradients_become_a_larger_batch() -> None:
    found = advice(12, batch_size=2, grad_accum=4, gradient_checkpointing=True)
    assert changed(found) == {"grad_accum": 1, "batch_size": 4}


def test_low_memory_comes_before_what_trains_less() -> None:
    assert changed(advice(8)) == {"gradient_checkpointing": True, "fused_backward": True, "weights_dtype": "bf16"}
    sdxl = {"family": "sdxl", "resolution": 1024, "batch_size": 4}
    assert changed(advice(24, **sdxl)) == {"gradient_checkpointing": True, "weights_dtype": "bf16"}
    low = {"gradient_checkpointing": True, "fused_backward": True, "weights_dtype": "bf16", "optimizer": "adafactor"}
    assert changed(advice(16, **sdxl)) == low
    assert changed(advice(12, **sdxl)) == {**low, "batch_size": 1, "disable_textenc_2_training": True}
    assert changed(advice(16, **sdxl, optimizer="adafactor")) == {n: low[n] for n in low if n != "optimizer"}


@pytest.mark.parametrize(
    ("card_gb", "values"),
    [
        (4, {"method": "lora"}),
        (11, {"amp_dtype": "fp16"}),
        (11, {"optimizer": "prodigy"}),
        (11, {"text_encoder_optimizer": "schedulefree"}),
    ],
)
def test_where_low_memory_does_not_work_less_is_trained_instead(card_gb: float, values: dict[str, object]) -> None:
    found = changed(advice(card_gb, **values))
    assert {"disable_textenc_training", "resolution"} & found.keys()
    assert not {"weights_dtype", "fused_backward"} & found.keys()


def test_a_gpu_without_bf16_gets_no_advice_that_needs_it() -> None:
    old = replace(Card.of_size(11), has_bf16=False)
    found = changed(suggest(Search(shape_of("sd1"), old), Settings()))
    assert found == {"gradient_checkpointing": True, "batch_size": 1, "disable_textenc_training": True}


def test_gradients_clipped_in_the_users_own_way_are_not_clipped_one_by_one() -> None:
    assert "fused_backward" in changed(advice(11))
    assert "fused_backward" not in changed(advice(11, clip_grad_norm=0.5))


def test_an_optimizer_with_its_own_learning_rate_comes_last_and_resets_the_rate() -> None:
    found = advice(24, optimizer="prodigy", lr=1.0, gradient_checkpointing=True, ema_decay_rate=0.99, ema_device="cuda")
    assert changed(found)["lr"] is None
    assert found.changes[-1].before == {"optimizer": "prodigy", "lr": 1.0}


@pytest.mark.parametrize("name", PRESETS)
def test_the_shipped_presets_fit_the_gpu_in_their_title(name: str) -> None:
    read = read_preset(PROGRAM_DIR / "presets" / f"{name}.json")
    chosen, (size,) = with_defaults(read.values), re.findall(r"(\d+) GB", read.about["title"])
    assert name.endswith(f"-{size}gb")
    card = Card.of_size(int(size))
    shape = shape_of(model_sizes(chosen).family)
    plan = plan_memory(chosen, shape, card=card)
    assert plan.verdict(card) == "fits"
    assert suggest(Search(shape, card), chosen).fits
    for expected, most in re.findall(r"the plan, ([\d.]+) GB expected, ([\d.]+) at most", read.about["source"]):
        assert (expected, most) == (f"{plan.expected_gb:.1f}", f"{plan.high_gb:.1f}")


def test_sdxl_fits_where_it_is_meant_to() -> None:
    """The goals: the UNet in 10.5 GB, four images on 16 GB, all three networks on 24 GB."""
    low: dict[str, object] = {"weights_dtype": "bf16", "fused_backward": True, "optimizer": "adafactor"}
    unet = Settings().replaced(**low, resolution=1024, gradient_checkpointing=True, disable_textenc_training=True)

    def plan(settings: Settings, gb: float) -> MemoryPlan:
        return plan_memory(settings, shape_of("sdxl"), card=Card.of_size(gb))

    assert plan(unet.replaced(batch_size=1), 12).expected_gb <= 10.5
    assert plan(unet.replaced(batch_size=4), 16).verdict(Card.of_size(16)) == "fits"
    whole = unet.replaced(disable_textenc_training=False, optimizer="adamw8bit", fused_backward=False, batch_size=4)
    assert plan(whole, 24).verdict(Card.of_size(24)) == "fits"
