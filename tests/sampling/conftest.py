from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ed2.models.families.sd import StableDiffusion, load
from ed2.models.files.folder import open_folder


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on tiny models, and much more on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def epsilon_model(sd1: Path) -> StableDiffusion:
    return load(open_folder(sd1), trained=("unet",), device=torch.device("cpu"), frozen_dtype=torch.float32)


@pytest.fixture(scope="session")
def velocity_model(sd2: Path) -> StableDiffusion:
    """Both networks trained, so that all modes occur."""
    trained = ("unet", "text_encoder")
    return load(open_folder(sd2), trained=trained, device=torch.device("cpu"), frozen_dtype=torch.float32)
