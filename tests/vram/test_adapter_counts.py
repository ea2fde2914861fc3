"""The planned numbers of a LoRA's adapters against those of real adapters, at full size without content and tiny."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ed2.models.files.folder import open_folder
from ed2.models.lora.adapter import AdapterOptions, add_adapter
from ed2.settings.schema import Settings
from ed2.vram.shapes import AdaptedLayers, ModelShape, Traced, TrainedWeights, adapter_weights, shape_of
from scripts.memory_trace.networks import Blueprint, adapted, blueprint, counts, made

CASES = [("sd1", "all", 3, True), ("sd2", "attention", 16, False), ("sdxl", "linear", 8, True)]


def real(name: str, network: nn.Module, rank: int, layers: str, *, dora: bool) -> TrainedWeights:
    """The counts of adapters that are really added."""
    add_adapter(name, network, AdapterOptions(rank, rank, layers, seed=0, dora=dora))
    shapes = [parameter.shape for parameter in network.parameters() if parameter.requires_grad]
    sizes = [shape.numel() for shape in shapes]
    rows_and_columns = [n // s[-1] + n // s[-2] if len(s) > 1 else n for s, n in zip(shapes, sizes, strict=True)]
    return TrainedWeights(sum(sizes), sum(n for n in sizes if n < 4096), max(sizes), sum(rows_and_columns))


@pytest.mark.parametrize(("family", "layers", "rank", "dora"), CASES)
def test_full_size_adapters_have_as_many_numbers_as_planned(family: str, layers: str, rank: int, dora: bool) -> None:
    plan, shape = blueprint(family), shape_of(family)
    settings = Settings().replaced(lora_rank=rank, lora_layers=layers, lora_dora=dora).lora
    for name, make in {"unet": plan.unet, **plan.text_encoders}.items():
        network = made(make)
        with torch.device("meta"):
            assert adapter_weights(shape, name, settings) == real(name, network, rank, layers, dora=dora)


def test_tiny_adapters_have_as_many_numbers_as_planned(sdxl: Path) -> None:
    plan = Blueprint.of_folder(sdxl)
    found = {
        part: {layers: [AdaptedLayers(*row) for row in rows] for layers, rows in by_layers.items()}
        for part, by_layers in adapted(plan).items()
    }
    shape = ModelShape("sdxl", Traced(4, counts(plan), found, {}, {}, {}, {}))
    settings = Settings().replaced(lora_rank=5, lora_layers="all", lora_dora=True).lora
    source = open_folder(sdxl)
    for name in found:
        assert adapter_weights(shape, name, settings) == real(name, source.read(name), 5, "all", dora=True)


def test_the_shipped_layers_are_those_of_the_networks() -> None:
    shipped = shape_of("sd1").traced.adapters
    assert {
        part: {k: [list(row) for row in v] for k, v in found.items()} for part, found in shipped.items()
    } == adapted(blueprint("sd1"))
