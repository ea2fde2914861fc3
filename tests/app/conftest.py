"""A run folder for reporters."""

from pathlib import Path

import pytest


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "my logs" / "demo_20250101-120000"
    folder.mkdir(parents=True)
    return folder
