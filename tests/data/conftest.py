"""Pictures on the disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unchanged import watched

Painter = Callable[..., Path]


@pytest.fixture
def paint(tmp_path: Path) -> Painter:
    """Return a function that writes a picture of smooth noise below tmp_path/pictures and returns its path."""

    def write(name: str = "cat.png", size: tuple[int, int] = (64, 64), caption: str | None = None) -> Path:
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(name)).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR).save(path)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def _datasets_stay_as_they_are(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scan of every test here is held to leave the files of its folders as they are, by their hashes."""
    scan = getattr(request.module, "scan", None)
    if scan is not None:
        monkeypatch.setattr(request.module, "scan", watched(scan))
