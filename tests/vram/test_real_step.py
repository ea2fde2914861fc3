"""The plan of a tiny model's step against what a real step on the CPU allocates."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from ed2.data.loader import Batch, VisitKey
from ed2.models.memory import checkpoint_gradients
from ed2.settings.schema import Settings
from ed2.training.loop import optimizer_step
from ed2.training.state import Run
from ed2.vram.card import BYTES_PER_GB, NO_CARD
from ed2.vram.plan import plan_memory
from ed2.vram.shapes import ModelShape
from ed2.vram.traced import Traced
from scripts.memory_trace.networks import Blueprint
from scripts.memory_trace.passes import CPU, Variant
from scripts.memory_trace.record import passes_of, record, step_of
from tests.training.test_loop import run_on

PIXELS, BATCH, DOWNSCALE = 96, 3, 4
SIDES = (16, 32)


def batch_of(count: int) -> Batch:
    generator = np.random.default_rng(0)
    pixels = torch.from_numpy(generator.uniform(-1, 1, (count, 3, PIXELS, PIXELS)).astype(np.float32))
    names = tuple(f"{n}.png" for n in range(count))
    visits = tuple(VisitKey(0, name, 0) for name in names)
    return Batch(pixels, names, torch.ones(count), visits, names, (PIXELS, PIXELS))


def resident_bytes(run: Run) -> int:
    """What is there before a step: weights and the optimizers' state."""
    networks = (run.model.unet, run.model.text_encoder, run.model.vae)
    weights = sum(p.nbytes for network in networks for p in network.parameters())
    states = [state for optimizer in run.optimizers for state in optimizer.state.values()]
    return weights + sum(v.nbytes for state in states for v in state.values() if isinstance(v, torch.Tensor))


def peak_bytes(run: Run, batch: Batch) -> int:
    """The most that is allocated in the third step, as PyTorch's profiler tells it."""
    for _ in range(2):
        optimizer_step(run, [batch])
    before = resident_bytes(run)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        optimizer_step(run, [batch])
    now = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return before + most


@pytest.fixture(scope="module")
def shape(sd1: Path) -> ModelShape:
    """The tiny model, traced as the shipped figures were, but with the bytes of a CPU."""
    blueprint = Blueprint.of_folder(sd1)
    variants = [Variant("fp32", "both", again) for again in (False, True)]
    steps = {variant.key: step_of(blueprint, variant, SIDES, DOWNSCALE, CPU) for variant in variants}
    passes = passes_of(blueprint, SIDES, DOWNSCALE, CPU)
    return ModelShape("sd1", Traced.of(record(blueprint, DOWNSCALE, steps, passes)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_plan_of_a_step_is_what_a_real_one_allocates(sd1: Path, shape: ModelShape, checkpointing: bool) -> None:
    run = run_on(sd1, images_per_step=BATCH)
    if checkpointing:
        checkpoint_gradients([run.model.unet, run.model.text_encoder])
    measured = peak_bytes(run, batch_of(BATCH))
    settings = Settings().replaced(resolution=PIXELS, batch_size=BATCH, gradient_checkpointing=checkpointing)
    plan = plan_memory(settings, shape, card=NO_CARD)
    most = max(size for phase, size in plan.by_phase.items() if phase not in ("sampling", "saving"))
    assert most * BYTES_PER_GB == pytest.approx(measured, rel=0.05)
