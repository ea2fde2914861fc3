"""A run folder for reporters, the settings of a short run, and the trainer of the page."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ed2.app.service import TrainerService
from tests.runs import Values


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "my logs" / "demo_20250101-120000"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def values(tmp_path: Path, sd1: Path, images: Path) -> Values:
    """A run of two epochs of five steps each.

    A test file that needs others has a `values` of its own that takes these and changes some.
    """
    return {
        "project_name": "tiny",
        "data_root": [str(images)],
        "resume_ckpt": str(sd1),
        "resolution": 64,
        "batch_size": 2,
        "max_epochs": 2,
        "lr": 1e-3,
        "log_step": 4,
        "sample_prompts": str(tmp_path / "no prompts.txt"),
        "logdir": str(tmp_path / "logs"),
        "save_ckpt_dir": str(tmp_path / "files"),
    }


@pytest.fixture
def service() -> Iterator[TrainerService]:
    """The trainer of the page; what it still trains at the end of a test is stopped."""
    service = TrainerService()
    yield service
    service.stop_without_saving() if service.snapshot().is_active else None
    service.close()
