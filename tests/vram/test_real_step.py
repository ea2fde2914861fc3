"""The plan of a tiny model against what its real training and sampling on the CPU allocate."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from ed2.data.batch import Batch, stacked
from ed2.data.variants import VisitKey
from ed2.models.families.facts import FACTS
from ed2.models.lora.adapter import AdapterOptions, add_adapter
from ed2.models.memory import enable_checkpointing
from ed2.sampling.prompt import Prompt
from ed2.sampling.sampler import SampleOptions, draw_samples
from ed2.settings.schema import Settings
from ed2.training.loop import optimizer_step
from ed2.training.state import Run
from ed2.vram.card import BYTES_PER_GB, NO_CARD
from ed2.vram.plan import plan_memory
from ed2.vram.shapes import ModelShape, Traced
from scripts.memory_trace.networks import Blueprint
from scripts.memory_trace.passes import CPU, LORA_RANK, Variant
from scripts.memory_trace.record import passes_of, record, step_of
from tests.tiny import uncropped
from tests.training.steps import run_on

PIXELS, BATCH, DOWNSCALE = 96, 3, 4
SIDES = (16, 32)
"""Of the latents that are traced; those of the test lie in between."""
STEP = ("encoding", "forward", "backward", "optimizer")


def batch_of(count: int) -> Batch:
    generator = np.random.default_rng(0)
    pixels = stacked(list(generator.integers(0, 256, (count, PIXELS, PIXELS, 3), dtype=np.uint8)))
    names = tuple(f"{n}.png" for n in range(count))
    visits = tuple(VisitKey(0, name, 0) for name in names)
    size = (PIXELS, PIXELS)
    return Batch(pixels, names, torch.ones(count), visits, names, size, *uncropped(size, count))


def resident_bytes(run: Run) -> int:
    """What is there all the time: weights and the optimizers' state."""
    networks = [part.module for part in run.model.parts.values()]
    weights = sum(p.nbytes for network in networks for p in network.parameters())
    states = [state for optimizer in run.optimizers for state in optimizer.state.values()]
    return weights + sum(v.nbytes for state in states for v in state.values() if isinstance(v, torch.Tensor))


def peak_bytes(run: Run, work: Callable[[], object]) -> int:
    """The most that is allocated during `work`, as PyTorch's profiler tells it."""
    before = resident_bytes(run)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    now = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return before + most


def traced_shape(folder: Path, family: str, adapters: Sequence[Variant] = ()) -> ModelShape:
    """A tiny model, traced as the shipped figures were, but with the bytes of a CPU."""
    blueprint = Blueprint.of_folder(folder)
    variants = [Variant("fp32", trained, again) for trained in ("both", "unet") for again in (False, True)]
    steps = {variant.key: step_of(blueprint, variant, SIDES, DOWNSCALE, CPU) for variant in [*variants, *adapters]}
    passes = passes_of(blueprint, SIDES, DOWNSCALE, CPU)
    return ModelShape(family, Traced.of(record(blueprint, DOWNSCALE, steps, passes)))


@pytest.fixture(scope="module")
def shape(sd1: Path) -> ModelShape:
    adapters = [Variant("fp32", "lora-both", weights="all"), Variant("fp32", "lora", True, weights="all", dora=True)]
    return traced_shape(sd1, "sd1", adapters)


@pytest.fixture(scope="module")
def large(sdxl: Path) -> ModelShape:
    return traced_shape(sdxl, "sdxl")


def measured_and_planned(
    run: Run, shape: ModelShape, accumulated: int = 1, captions: Sequence[str] = ("a cat",) * BATCH, **values: object
) -> tuple[int, float]:
    """The peak of a step in bytes, really and as planned with these settings."""
    if values.get("gradient_checkpointing"):
        enable_checkpointing(run.model)
    batches = [replace(batch_of(BATCH), captions=tuple(captions))] * accumulated
    for _ in range(2):  # so that the optimizers have their state
        optimizer_step(run, batches)
    measured = peak_bytes(run, lambda: optimizer_step(run, batches))
    settings = Settings().replaced(resolution=PIXELS, batch_size=BATCH, grad_accum=accumulated, **values)
    plan = plan_memory(settings, shape, card=NO_CARD)
    return measured, max(plan.by_phase[phase] for phase in STEP) * BYTES_PER_GB


@pytest.mark.parametrize(("checkpointing", "accumulated"), [(False, 1), (True, 1), (False, 2)])
def test_the_plan_of_a_step_matches_what_a_real_one_allocates(
    sd1: Path, shape: ModelShape, checkpointing: bool, accumulated: int
) -> None:
    run = run_on(sd1, images_per_step=BATCH * accumulated)
    measured, planned = measured_and_planned(run, shape, accumulated, gradient_checkpointing=checkpointing)
    assert planned == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(
    ("switches", "checkpointing"),
    [
        ({}, False),
        ({}, True),
        ({"disable_textenc_training": True}, False),
        ({"disable_textenc_training": True}, True),
        ({"disable_textenc_2_training": True}, False),
        ({"disable_textenc_training": True, "disable_textenc_2_training": False}, True),
    ],
    ids=["both", "both again", "none", "none again", "first", "second again"],
)
def test_the_plan_of_a_step_counts_the_text_encoders_that_are_trained(
    sdxl: Path, large: ModelShape, switches: dict[str, object], checkpointing: bool
) -> None:
    trained = Settings().replaced(**switches).model.trained_parts(FACTS["sdxl"])
    run = run_on(sdxl, images_per_step=BATCH, trained=trained)
    measured, planned = measured_and_planned(run, large, gradient_checkpointing=checkpointing, **switches)
    assert planned == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(
    ("words", "chunks", "switches"),
    [((40, 40, 40), 2, {}), ((3, 40, 70), 3, {"disable_textenc_training": True})],
    ids=["both text encoders", "captions of several lengths"],
)
def test_the_plan_counts_what_long_captions_take_more(
    sdxl: Path, large: ModelShape, words: tuple[int, ...], chunks: int, switches: dict[str, object]
) -> None:
    captions = [" ".join(f"word{number}" for number in range(count)) for count in words]
    trained = Settings().replaced(**switches).model.trained_parts(FACTS["sdxl"])
    run = run_on(sdxl, images_per_step=BATCH, trained=trained)
    short, planned_short = measured_and_planned(run, large, captions=captions, **switches)
    run.model.caption_chunks = chunks
    long, planned_long = measured_and_planned(run, large, captions=captions, caption_chunks=chunks, **switches)
    assert long - short > 2e6
    assert planned_long - planned_short == pytest.approx(long - short, rel=0.06)


@pytest.mark.parametrize(
    ("switches", "checkpointing"),
    [({}, False), ({"disable_textenc_training": True, "lora_dora": True}, True)],
    ids=["all networks", "DoRA of the UNet"],
)
def test_the_plan_of_a_step_of_a_lora_matches_what_a_real_one_allocates(
    sd1: Path, shape: ModelShape, switches: dict[str, object], checkpointing: bool
) -> None:
    values = {**switches, "method": "lora", "lora_layers": "all", "lora_rank": LORA_RANK}
    own = Settings().replaced(**values)
    options = AdapterOptions(LORA_RANK, LORA_RANK, "all", 1, dora=own.lora.lora_dora)
    trained = own.model.trained_parts(FACTS["sd1"])
    run = run_on(sd1, images_per_step=BATCH, trained=trained, adapt=partial(add_adapter, options=options))
    measured, planned = measured_and_planned(run, shape, gradient_checkpointing=checkpointing, **values)
    assert planned == pytest.approx(measured, rel=0.05)


def test_the_plan_of_sampling_matches_what_real_sampling_allocates(sd1: Path, shape: ModelShape) -> None:
    run = run_on(sd1, images_per_step=BATCH)
    optimizer_step(run, [batch_of(BATCH)])
    prompts = [Prompt(number, "a cat", 1, (PIXELS, PIXELS), cfgs=(7.0,)) for number in range(BATCH)]
    options = SampleOptions(num_steps=2, batch_size=BATCH)
    measured = peak_bytes(run, lambda: list(draw_samples(run.model, prompts, options)))
    plan = plan_memory(Settings().replaced(resolution=PIXELS, batch_size=BATCH), shape, card=NO_CARD)
    assert plan.by_phase["sampling"] * BYTES_PER_GB == pytest.approx(measured, rel=0.05)
