"""Images on the disk."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ed2.data.example import Example
from ed2.data.folder import ScanOptions, scan
from tests.unchanged import watched

Painter = Callable[..., Path]
SIZES = ((100, 100), (120, 80), (80, 120), (64, 64))


@pytest.fixture
def paint(tmp_path: Path) -> Painter:
    """Return a function that writes an image of smooth noise below tmp_path/images and returns its path."""

    def write(name: str = "cat.png", size: tuple[int, int] = (64, 64), caption: str | None = None) -> Path:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (6, 6, 3), dtype=np.uint8)
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


@pytest.fixture
def examples(paint: Painter, tmp_path: Path) -> tuple[Example, ...]:
    """Seventeen images of three formats and four shapes, every other of them shown twice."""
    for number in range(17):
        kind = ("png", "jpg", "webp")[number % 3]
        paint(f"{number:02}.{kind}", size=SIZES[number % 4], caption=f"image {number}")
    scanned = scan([tmp_path / "images"], ScanOptions(resolution=64, flip_p=0.5, cond_dropout=0.3))
    return tuple(replace(example, multiply=1 + number % 2) for number, example in enumerate(scanned.examples))
