"""The same weights compute the same bytes, from whatever file they were read."""

import shutil
from pathlib import Path

import numpy as np
import torch

from ed2.data.batch import Batch, stacked
from ed2.data.variants import VisitKey
from ed2.models.families.sd import load
from ed2.models.files.folder import open_folder
from ed2.settings.files import PROGRAM_DIR
from ed2.training.objective import Objective, mse
from tests.tiny import uncropped

BASE = PROGRAM_DIR / "ed2" / "demo" / "base"
CPU = torch.device("cpu")


def gradients_from(folder: Path) -> dict[str, bytes]:
    """The bytes of every gradient of one image: products of matrices with a single row are the sensitive ones."""
    model = load(open_folder(folder), trained=["unet", "text_encoder"], device=CPU, frozen_dtype=torch.float32)
    pixels = stacked([np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)])
    visits, size = (VisitKey(0, "0/a.png", 0),), (64, 64)
    batch = Batch(pixels, ("a red circle",), torch.ones(1), visits, ("a.png",), size, *uncropped(size, 1))
    Objective(model, mse, 1, CPU)(batch).sum().backward()
    return {
        f"{part.name}/{name}": parameter.grad.numpy().tobytes()
        for part in model.parts.values()
        for name, parameter in part.parameters().items()
        if parameter.grad is not None
    }


def test_a_checkpoint_gives_the_gradients_of_the_base_byte_for_byte(tmp_path: Path) -> None:
    checkpoint = tmp_path / "fp32"  # the demo's base is in fp16: what is trained of it is saved in fp32, and mapped
    shutil.copytree(BASE, checkpoint)
    model = load(open_folder(BASE), trained=["unet", "text_encoder"], device=CPU, frozen_dtype=torch.float32)
    model.denoiser.save_pretrained(checkpoint / "unet")
    model.parts["text_encoder"].module.save_pretrained(checkpoint / "text_encoder")
    of_base, of_checkpoint = gradients_from(BASE), gradients_from(checkpoint)
    assert [name for name in of_base if of_base[name] != of_checkpoint[name]] == []
