"""Pictures on the disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
