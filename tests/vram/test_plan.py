"""The memory plan: properties that hold for any settings, and known figures for some."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st

from ed2.models.families.facts import FACTS
from ed2.ranks.base import SUM_NUMBERS
from ed2.registry import OPTIMIZERS
from ed2.settings.schema import RESOLUTIONS, Settings
from ed2.vram.card import NO_CARD, Card
from ed2.vram.memory_model import PlannedFeatures
from ed2.vram.plan import MemoryPlan, plan_memory, sampling_batch
from ed2.vram.shapes import shape_of

BIG = Card.of_size(80)
TRAINED = ({}, {"disable_textenc_training": True}, {"disable_unet_training": True}, {"unfreeze_last_n_layers": 2})

settings = st.builds(
    lambda trained, rest: Settings().replaced(**trained, **rest),
    st.sampled_from(TRAINED),
    st.fixed_dictionaries(
        {
            "resolution": st.sampled_from(RESOLUTIONS[:-1]),
            "batch_size": st.integers(1, 40),
            "grad_accum": st.integers(1, 3),
            "gradient_checkpointing": st.booleans(),
            "amp": st.booleans(),
            "optimizer": st.sampled_from(sorted(OPTIMIZERS)),
            "attn_type": st.sampled_from(["sdp", "slice"]),
            "ema_decay_rate": st.sampled_from([None, 0.99]),
            "ema_device": st.sampled_from(["cpu", "cuda"]),
            "weights_dtype": st.sampled_from(["fp32", "bf16"]),
            "fused_backward": st.booleans(),
        }
    ),
)
families = st.sampled_from(tuple(FACTS))


def planned(
    family: str = "sd1", *, card: Card = BIG, features: PlannedFeatures | None = None, **changes: object
) -> MemoryPlan:
    return plan_memory(Settings().replaced(**changes), shape_of(family), card=card, features=features)


@checked(deadline=None)  # a busy computer is not a failure
@given(families, settings)
def test_the_peak_rises_with_batch_and_resolution_and_falls_with_checkpointing(family: str, given: Settings) -> None:
    def of(**changes: object) -> float:
        return plan_memory(given.replaced(**changes), shape_of(family), card=BIG).allocated_gb

    now = of()
    assert now <= of(batch_size=given.data.batch_size + 1)
    assert now < of(batch_size=given.data.batch_size + 1000)
    assert now <= of(resolution=RESOLUTIONS[RESOLUTIONS.index(given.data.resolution) + 1])
    assert of(gradient_checkpointing=True) <= of(gradient_checkpointing=False)


@checked(deadline=None)
@given(families, settings)
def test_the_parts_add_up_and_are_within_the_range(family: str, given: Settings) -> None:
    plan = plan_memory(given, shape_of(family), card=BIG)
    assert sum(plan.parts.values()) == pytest.approx(plan.expected_gb)
    assert plan.low_gb < plan.expected_gb < plan.high_gb
    assert plan.allocated_gb == max(plan.by_phase.values()) == plan.by_phase[plan.peak]


@checked(deadline=None)
@given(families, settings)
def test_sampling_and_saving_never_exceed_the_step_where_the_unet_is_trained(family: str, given: Settings) -> None:
    if given.model.disable_unet_training or not given.memory.amp:
        return
    given = given.replaced(weights_dtype="fp32", fused_backward=False)  # a step of these may need less than a sample
    plan = plan_memory(given, shape_of(family), card=BIG)
    step = max(plan.by_phase[phase] for phase in ("encoding", "forward", "backward", "optimizer"))
    assert max(plan.by_phase["sampling"], plan.by_phase["saving"]) <= step
    assert 1 <= sampling_batch(given, shape_of(family), card=BIG) <= given.data.batch_size


def test_gradients_are_held_while_batches_are_accumulated() -> None:
    once, twice, often = (planned(grad_accum=n, batch_size=1, gradient_checkpointing=True) for n in (1, 2, 9))
    assert twice.allocated_gb > once.allocated_gb + 1.5
    assert often == twice
    assert planned(grad_accum=2).parts["gradients"] == pytest.approx(4 * 982_581_444 / 2**30)


def test_the_more_is_frozen_the_less_memory_is_needed() -> None:
    frozen = planned(disable_textenc_training=True)
    part = planned(unfreeze_last_n_layers=2)
    whole = planned()
    assert frozen.allocated_gb < part.allocated_gb < whole.allocated_gb
    assert planned(freeze_embeddings=True).parts["optimizer"] < whole.parts["optimizer"]


def test_each_optimizer_has_its_own_state() -> None:
    by_name = {name: planned(optimizer=name).by_phase["optimizer"] for name in OPTIMIZERS}
    assert sorted(by_name, key=lambda name: by_name[name]) == [
        "lion8bit", "adamw8bit", "adafactor", "lion", "adamw", "schedulefree", "prodigy",
    ]  # fmt: skip
    assert planned(optimizer="adamw", text_encoder_optimizer="lion8bit").parts["optimizer"] == pytest.approx(
        (8 * 859_520_964 + 1.016 * 123_060_480) / 2**30, rel=1e-3
    )


def test_several_processes_share_the_optimizer_state_out_and_have_a_buffer_for_sums() -> None:
    one, two = planned(optimizer="adamw"), planned(optimizer="adamw", num_processes=2)
    assert two.parts["optimizer"] == pytest.approx(one.parts["optimizer"] / 2)
    assert two.parts["sums"] * 2**30 == pytest.approx(4 * 49408 * 768)  # the token embeddings; more than the buffer
    assert one.parts["sums"] == 0
    lora = planned(optimizer="adamw", num_processes=2, method="lora")
    assert lora.parts["sums"] * 2**30 == pytest.approx(4 * SUM_NUMBERS)
    own_rate = [planned(optimizer="prodigy", num_processes=number).parts["optimizer"] for number in (1, 2)]
    assert own_rate[0] == own_rate[1]  # its one estimate needs all gradients


def test_freed_gradients_wait_for_those_of_other_processes() -> None:
    low = {"weights_dtype": "bf16", "fused_backward": True, "optimizer": "adafactor", "amp": True}
    one, two = planned(**low), planned(**low, num_processes=2)
    assert (two.parts["gradients"] - one.parts["gradients"]) * 2**30 == pytest.approx(2 * SUM_NUMBERS)


def test_the_ema_counts_on_the_device_that_holds_it() -> None:
    without, on_cpu = planned(), planned(ema_decay_rate=0.99, ema_device="cpu")
    on_card = planned(ema_decay_rate=0.99, ema_device="cuda")
    assert on_cpu.allocated_gb == without.allocated_gb
    assert on_card.parts["average"] == pytest.approx(3.66, abs=0.01)
    assert on_card.by_phase["sampling"] - without.by_phase["sampling"] == pytest.approx(3.66, abs=0.01)


def test_cached_parts_are_not_on_the_card_in_training_and_are_back_for_samples() -> None:
    full = planned(gradient_checkpointing=True, val_split_mode="automatic")
    cached = planned(gradient_checkpointing=True, val_split_mode="automatic", cache_latents=True, cache_text=True)
    for phase in ("sampling", "validation"):
        assert cached.by_phase[phase] == pytest.approx(full.by_phase[phase])
    frozen = planned(gradient_checkpointing=True, cache_latents=True, disable_textenc_training=True)
    without = planned(gradient_checkpointing=True, cache_latents=True, disable_textenc_training=True, cache_text=True)
    assert frozen.allocated_gb - without.allocated_gb == pytest.approx(2 * 123_060_480 / 2**30)


def test_features_can_be_planned_apart_from_settings() -> None:
    full = planned(gradient_checkpointing=True)
    cached = planned(gradient_checkpointing=True, features=PlannedFeatures(cached_latents=True))
    assert full.allocated_gb - cached.allocated_gb == pytest.approx(2 * 83_653_863 / 2**30)
    small, large = (planned(gradient_checkpointing=True, method="lora", lora_rank=rank) for rank in (4, 128))
    assert small.allocated_gb < large.allocated_gb < full.allocated_gb / 2


@pytest.mark.parametrize("trained", TRAINED[:2])
def test_weights_in_bf16_and_freed_gradients_take_less_and_their_ema_stays_in_fp32(trained: dict[str, object]) -> None:
    common = {**trained, "gradient_checkpointing": True, "ema_decay_rate": 0.9, "ema_device": "cuda"}
    plain = planned(**common)
    half = planned(**common, weights_dtype="bf16")
    both = planned(**common, weights_dtype="bf16", fused_backward=True)
    assert plain.expected_gb > half.expected_gb > both.expected_gb
    assert half.parts["average"] == pytest.approx(plain.parts["average"])
    assert both.parts["weights"] < 0.7 * plain.parts["weights"]
    assert both.parts["gradients"] < 0.1 * planned(**common, weights_dtype="bf16").parts["gradients"] + 0.2


def test_sdxl_in_bf16_with_fused_backward_fits_a_small_card() -> None:
    values = {"resolution": 1024, "batch_size": 1, "optimizer": "adafactor", "gradient_checkpointing": True}
    features = PlannedFeatures(cached_latents=True, cached_text=True)
    low = {"weights_dtype": "bf16", "fused_backward": True, "disable_textenc_training": True}
    assert planned("sdxl", features=features, **values, **low).by_phase["backward"] < 10.5


def test_long_captions_count_in_the_text_encoders_and_in_the_attention_to_them() -> None:
    def more(family: str, chunks: int, batch: int = 4, **values: object) -> float:
        """KB per image at the end of the forward pass."""
        common = {"resolution": 512, "batch_size": batch, **values}
        usual, longer = (planned(family, **common, caption_chunks=number).by_phase["forward"] for number in (1, chunks))
        return (longer - usual) * 2**20 / batch

    unet = {"disable_textenc_training": True}
    # Keys and values of SD 1.5 at 77 tokens: 12,480 channels of each in half precision.
    assert more("sd1", 2, **unet) == pytest.approx(2 * 12_480 * 77 * 2 / 2**10, rel=0.06)
    assert more("sd1", 3, batch=1, **unet) == pytest.approx(2 * more("sd1", 2, **unet))
    assert more("sd1", 3, **unet) == pytest.approx(5 * more("sd1", 2, **unet)), "2 and 3 chunks are repeated up to 6"
    assert more("sdxl", 2) > 5 * more("sdxl", 2, **unet)
    assert 0 < more("sdxl", 2, gradient_checkpointing=True) < more("sdxl", 2) / 5


def test_each_text_encoder_counts_by_itself() -> None:
    common = {"resolution": 1024, "batch_size": 1, "gradient_checkpointing": True, "optimizer": "adamw"}
    numbers = {"text_encoder": 123_060_480, "text_encoder_2": 694_659_840}

    def of(**switches: object) -> MemoryPlan:
        return planned("sdxl", **common, **switches)

    none, first = of(disable_textenc_training=True), of(disable_textenc_2_training=True)
    second, both = of(disable_textenc_training=True, disable_textenc_2_training=False), of()
    gb = 2**30
    for plan, trained in ((first, numbers["text_encoder"]), (second, numbers["text_encoder_2"])):
        assert plan.parts["optimizer"] - none.parts["optimizer"] == pytest.approx(8 * trained / gb)
        assert plan.parts["weights"] - none.parts["weights"] == pytest.approx(2 * trained / gb)
        assert plan.parts["gradients"] - none.parts["gradients"] == pytest.approx(
            4 * trained / gb, rel=0.03
        )  # not all at once
    assert none.expected_gb < first.expected_gb < second.expected_gb < both.expected_gb


def test_a_vae_that_overflows_is_planned_in_fp32_where_mixed_precision_is_fp16() -> None:
    def encoding(family: str, card: Card = BIG, **values: object) -> float:
        return planned(family, card=card, resolution=1024, **values).by_phase["encoding"]

    old = replace(BIG, has_bf16=False)
    for found in (encoding("sdxl", amp_dtype="fp16"), encoding("sdxl", old)):
        assert found - encoding("sdxl") == pytest.approx(1.41, abs=0.02)  # activations 1.26, weights 0.16
    assert encoding("sd1", old) == encoding("sd1", amp_dtype="fp16") == encoding("sd1")


def test_no_trained_weights_borrow_a_trace_in_fp32_for_bf16() -> None:
    for family in FACTS:
        steps = shape_of(family).traced.training
        for trained in ("both", "unet", "text_encoder"):
            assert {f"half/{trained}/{times}/sdp/half" for times in ("once", "twice")} <= steps.keys()
            assert f"half/{trained}/twice/slice/fp32" in steps


def test_a_cpu_has_no_mixed_precision_and_without_a_gpu_there_is_no_verdict() -> None:
    plan = planned(card=NO_CARD)
    assert plan.parts["autocast_copies"] == 0
    assert plan.parts["optimizer"] == pytest.approx(8 * 982_581_444 / 2**30)
    assert plan.verdict(NO_CARD) is None
    told = plan.as_object(NO_CARD)
    assert (told["verdict"], told["card_gb"]) == (None, None)


def test_the_verdict_depends_on_the_high_and_the_expected_figure() -> None:
    plan = planned()
    assert plan.verdict(Card(free_gb=plan.high_gb)) == "fits"
    assert plan.verdict(Card(free_gb=plan.high_gb - 0.01)) == "tight"
    assert plan.verdict(Card(free_gb=plan.expected_gb)) == "tight"
    assert plan.verdict(Card(free_gb=plan.expected_gb - 0.01)) == "does not fit"


def test_a_model_is_recognized_by_the_number_of_its_weights() -> None:
    demo = shape_of("sd1", {"unet": 2_725_956, "vae": 233_751, "text_encoder": 208_704})
    assert plan_memory(Settings().replaced(resolution=64), demo, card=NO_CARD).allocated_gb < 0.1
    sd1 = shape_of("sd1", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_557})
    assert sd1.parameters is None
    odd = shape_of("sd1", {"unet": 400_000_000, "vae": 83_653_863, "text_encoder": 123_060_480})
    plan = plan_memory(Settings(), odd, card=BIG)
    assert plan.allocated_gb < planned().allocated_gb
    assert "usual SD 1.x: its" in plan.notes[0]


def test_planning_needs_no_torch() -> None:
    script = (
        "import sys; from ed2.settings.schema import Settings; from ed2.vram.plan import plan_memory\n"
        "from ed2.vram.shapes import shape_of; from ed2.vram.advice import suggest\n"
        "from ed2.vram.memory_options import Search; from ed2.vram.card import Card\n"
        "suggest(Search(shape_of('sd1'), Card.of_size(8)), Settings()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
