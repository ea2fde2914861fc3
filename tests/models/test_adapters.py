"""Adapters in training: what they drop depends on the image and the layer alone; DoRA in half precision."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ed2.data.loader import Batch
from ed2.models.base import DiffusionModel, evaluating, trained_parts
from ed2.models.families.facts import FACTS
from ed2.models.files.folder import open_folder
from ed2.models.files.tokens import CONTEXT_LENGTH
from ed2.models.lora.adapter import AdapterOptions, VisitDropout, add_adapter
from ed2.models.memory import enable_checkpointing
from ed2.models.parts import BatchVisits
from ed2.registry import FAMILIES
from ed2.training.objective import Objective, mse
from tests.training.steps import CPU, batch_of

ROWS = torch.ones(3, 40, 50)
VISITS = [(0, "0/a.png", 0), (0, "0/b.png", 0), (1, "0/a.png", 0)]
LONG = " ".join(["a small red cat sits on a tall green wall"] * 12)


def dropout(
    probability: float = 0.25, *, seed: int = 1, layer: str = "unet.a", visits: object = VISITS
) -> VisitDropout:
    batch = BatchVisits()
    batch.visits = visits  # type: ignore[assignment]
    return VisitDropout(probability, seed, layer, batch)


def test_as_much_is_dropped_as_wanted_and_the_mean_stays() -> None:
    dropped = dropout()(torch.ones(3, 400, 500))
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert not dropout(1.0)(ROWS).any()


def test_rows_differ_by_visit_layer_and_seed_and_not_by_their_batch() -> None:
    together = dropout()(ROWS)
    assert not torch.equal(together[0], together[1]) and not torch.equal(together[0], together[2])
    for number, visit in enumerate(VISITS):
        assert torch.equal(dropout(visits=[visit])(ROWS[:1])[0], together[number])
    for other in (dropout(seed=2), dropout(layer="unet.b")):
        assert not torch.equal(other(ROWS), together)


def test_nothing_is_dropped_outside_training() -> None:
    layer = dropout().eval()
    assert layer(ROWS) is ROWS


def test_the_gradient_has_the_mask_of_the_forward_pass() -> None:
    layer, inputs = dropout(), ROWS.clone().requires_grad_()
    outputs = layer(inputs)
    layer._visits.visits = [(9, "0/z.png", 9)] * 3
    outputs.sum().backward()
    assert inputs.grad is not None and torch.equal(inputs.grad, outputs)


def test_copies_of_a_caption_beside_a_longer_one_share_a_mask() -> None:
    layer = dropout(layer="unet.x.attn2.to_k", visits=VISITS[:1])
    short = layer(torch.ones(1, CONTEXT_LENGTH, 8))
    assert torch.equal(layer(torch.ones(1, 2 * CONTEXT_LENGTH, 8)), short.repeat(1, 2, 1))


def lora(folder: Path, options: AdapterOptions, dtype: torch.dtype = torch.float32) -> DiffusionModel:
    """A tiny model, its base in `dtype`, with adapters of all networks, whose second matrices are not zero."""
    source = open_folder(folder)
    trained = [part.name for part in FACTS[source.family].parts if part.is_trainable]
    adapt = partial(add_adapter, options=options)
    model: DiffusionModel = FAMILIES.load(source.family)(
        source, trained=trained, device=CPU, frozen_dtype=dtype, adapt=adapt
    )
    model.visits, model.caption_chunks = options.visits, 3
    generator = torch.Generator().manual_seed(0)
    for part in trained_parts(model).values():
        for name, parameter in part.parameters().items():
            if "lora_B" in name:
                parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def gradients(model: DiffusionModel, batches: Sequence[Batch]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for batch in batches:
        Objective(model, mse, 1, CPU)(batch).sum().backward()
    for name, part in trained_parts(model).items():
        for key, parameter in part.parameters().items():
            if parameter.grad is not None:  # SDXL does not use the last layer of its first text encoder
                found[f"{name}.{key}"], parameter.grad = parameter.grad, None
    return found


def batch(*numbers: int) -> Batch:
    """Images of which one has a caption of two chunks."""
    found = batch_of(*numbers)
    captions = tuple(LONG if number == 1 else f"number {number}" for number in numbers)
    return replace(found, captions=captions)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_split_batches_and_checkpointing_drop_the_same(family: str, dora: bool, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(family)
    model = lora(folder, AdapterOptions(2, 2.0, "all", 1, dora=dora, dropout=0.2, visits=BatchVisits()))
    plain = lora(folder, AdapterOptions(2, 2.0, "all", 1, dora=dora))
    whole, again = gradients(model, [batch(0, 1, 2)]), gradients(model, [batch(0, 1, 2)])
    undropped = gradients(plain, [batch(0, 1, 2)])
    for name, gradient in whole.items():
        assert torch.equal(gradient, again[name])
        assert "lora_B" not in name or not torch.equal(gradient, undropped[name])
    split = gradients(model, [batch(0), batch(1), batch(2)])
    for name, gradient in whole.items():  # sums in another order
        assert (split[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-9, name
    enable_checkpointing(model)
    recomputed = gradients(model, [batch(0, 1, 2)])
    assert all(torch.equal(recomputed[name], gradient) for name, gradient in whole.items())


def test_validation_drops_nothing(sd1: Path) -> None:
    model = lora(sd1, AdapterOptions(2, 2.0, "all", 1, dropout=0.5, visits=BatchVisits()))
    plain = lora(sd1, AdapterOptions(2, 2.0, "all", 1))
    losses = []
    for each in (model, plain):
        with torch.no_grad(), evaluating(each):
            losses.append(Objective(each, mse, 1, CPU)(batch(0, 1)))
    assert torch.equal(*losses)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_a_dora_on_a_base_in_half_precision_begins_as_the_base_and_trains_in_fp32(
    sd1: Path, dtype: torch.dtype
) -> None:
    model = lora(sd1, AdapterOptions(2, 2.0, "all", 1, dora=True, dropout=0.1, visits=BatchVisits()), dtype)
    exact = lora(sd1, AdapterOptions(2, 2.0, "all", 1, dora=True))
    for name, part in trained_parts(model).items():
        for key, parameter in part.parameters().items():
            assert parameter.dtype is torch.float32
            if "magnitude" in key:  # of the rounded weights, but not rounded itself
                weight = part.module.get_submodule(key.partition(".lora_magnitude")[0]).get_base_layer().weight
                lengths = weight.float().flatten(1).norm(dim=1)
                torch.testing.assert_close(parameter.detach().flatten(), lengths, rtol=1e-6, atol=0)
                other = exact.parts[name].parameters()[key].detach().flatten()
                torch.testing.assert_close(parameter.detach().flatten(), other, rtol=1e-2, atol=1e-3)
    with torch.autocast("cpu", dtype):
        found = gradients(model, [batch(0, 1)])
        enable_checkpointing(model)
        recomputed = gradients(model, [batch(0, 1)])
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    for name, gradient in found.items():
        assert gradient.isfinite().all() and torch.equal(gradient, recomputed[name])
    assert all(found[name].any() for name in found if "magnitude" in name)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_new_adapters_change_nothing(sd1: Path, dora: bool) -> None:
    source = open_folder(sd1)
    inputs = torch.randn(1, 4, 8, 8), 500, torch.randn(1, CONTEXT_LENGTH, 32)
    for dtype in (torch.float32, torch.bfloat16):
        network = source.read("unet").to(dtype)
        inputs = (inputs[0].to(dtype), 500, inputs[2].to(dtype))
        before = network(*inputs).sample
        add_adapter("unet", network, AdapterOptions(2, 2.0, "all", 1, dora=dora))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            after = network(*inputs).sample
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 if dtype is torch.float32 else 0.02)
