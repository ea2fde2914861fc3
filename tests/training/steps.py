"""Single steps of a tiny model, without a run around them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ed2.data.batch import Batch, stacked
from ed2.data.variants import VisitKey
from ed2.events import EventBus
from ed2.models.base import DiffusionModel, trained_parts
from ed2.models.compute import Precision
from ed2.models.families.sd import Adapt
from ed2.models.files.folder import open_folder
from ed2.registry import FAMILIES, OPTIMIZERS
from ed2.training.controls import Controls
from ed2.training.metrics import Metrics
from ed2.training.objective import Objective, mse
from ed2.training.optimizer_factories import OptimizerOptions
from ed2.training.optimizers import Optimizers
from ed2.training.rounding import Rounding
from ed2.training.state import Run, TrainState
from ed2.training.update import WholeUpdate
from tests.tiny import uncropped

CPU = torch.device("cpu")


def batch_of(*numbers: int) -> Batch:
    pixels = stacked([np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8) for n in numbers])
    visits = tuple(VisitKey(0, f"0/{n}.png", 0) for n in numbers)
    names = tuple(f"{n}.png" for n in numbers)
    captions, count, size = tuple(f"number {n}" for n in numbers), len(numbers), (32, 32)
    return Batch(pixels, captions, torch.ones(count), visits, names, size, *uncropped(size, count))


def optimizers_of(model: DiffusionModel, name: str = "adamw", rounding: Rounding | None = None) -> Optimizers:
    lrs = {"unet": 1e-3, "text_encoder": 5e-4, "text_encoder_2": 5e-4}
    build = OPTIMIZERS.load(name)
    parts = trained_parts(model)
    made = {n: build(list(part.parameters().values()), OptimizerOptions(lrs[n])) for n, part in parts.items()}
    return Optimizers(made, lrs, rounding=rounding)


def run_on(
    folder: Path,
    *,
    images_per_step: int,
    dtype: torch.dtype | None = None,
    optimizer: str = "adamw",
    trained: Sequence[str] = ("unet", "text_encoder"),
    adapt: Adapt | None = None,
) -> Run:
    source = open_folder(folder)
    model = FAMILIES.load(source.family)(source, trained=trained, device=CPU, frozen_dtype=torch.float32, adapt=adapt)
    optimizers = optimizers_of(model, optimizer)
    optimizers.make_state()
    return run_of(model, optimizers, Precision(CPU, dtype), images_per_step)


def run_of(model: DiffusionModel, optimizers: Optimizers, precision: Precision, images_per_step: int) -> Run:
    return Run(
        model=model,
        data=None,  # type: ignore[arg-type]
        objective=Objective(model, mse, 1, CPU),
        precision=precision,
        optimizers=optimizers,
        update=WholeUpdate(optimizers, precision, None),
        metrics=Metrics(),
        bus=EventBus(),
        controls=Controls(),
        state=TrainState(),
        max_epochs=4,
        steps_in=lambda epoch: 5,
        images_per_step=images_per_step,
    )


def gradients(run: Run, batches: list[Batch]) -> dict[str, Tensor]:
    """The gradients that a step would use."""
    for batch in batches:
        run.precision.backward(run.objective(batch).sum() / run.images_per_step)
    return {
        f"{network}/{name}": p.grad.clone()
        for network, part in trained_parts(run.model).items()
        for name, p in part.parameters().items()
        if p.grad is not None
    }


def parameters(run: Run) -> list[Tensor]:
    return [p.detach().clone() for part in run.model.parts.values() for p in part.parameters().values()]
