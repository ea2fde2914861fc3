"""Everything in a step is on the device of the run: `meta`, which holds no numbers, refuses others as a GPU does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ed2.models.base import trained_parts
from ed2.models.compute import Precision
from ed2.models.families.facts import FACTS
from ed2.models.files.folder import open_folder
from ed2.registry import FAMILIES, LOSSES
from ed2.training.ema import Ema
from ed2.training.metrics import Metrics
from ed2.training.objective import Objective, ObjectiveOptions
from tests.training.steps import batch_of, optimizers_of

META = torch.device("meta")
EVERYTHING = ObjectiveOptions(min_snr_gamma=5.0, embedding_perturbation=0.1, pyramid_discount=0.3, noise_offset=0.05)


@pytest.mark.parametrize("loss", ["mse", "mse_huber"])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_step_is_on_one_device(family: str, loss: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(family)
    trained = [part.name for part in FACTS[family].parts if part.is_trainable]
    model = FAMILIES.load(family)(open_folder(folder), trained=trained, device=META, frozen_dtype=torch.float32)
    optimizers, precision, metrics = optimizers_of(model), Precision(META, None), Metrics()
    ema = Ema(trained_parts(model), 0.9, 1, META)
    batch = replace(batch_of(0, 1), pixels=None, posterior=torch.zeros(2, 2, 4, 8, 8))  # `meta` has no autocast
    losses = Objective(model, LOSSES.load(loss), 1, META, EVERYTHING)(batch)
    precision.backward(losses.sum())
    norm = precision.clip(optimizers, None)
    ema.update(1)
    metrics.add(losses.detach())
    assert losses.device == norm.device == META
    parameters = [p for part in trained_parts(model).values() for p in part.parameters().values()]
    assert all(p.grad is None or p.grad.device == META for p in parameters)
