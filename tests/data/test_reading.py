"""Sizes by header, before and without reading images in full."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ed2.data.folder import ScanOptions, scan
from ed2.data.images import check_image, header_size
from ed2.data.reading import Outline
from ed2.errors import StopRequested
from tests.data.planning import plan_epoch

Painter = Callable[..., Path]
OPTIONS = ScanOptions(resolution=64)


@pytest.fixture
def folder(paint: Painter, tmp_path: Path) -> Path:
    """Five sound images, one of them turned by its EXIF block, and one that is cut short."""
    for number, size in enumerate([(64, 64), (96, 64), (64, 96), (160, 48)]):
        paint(f"{number}.{('png', 'jpg', 'webp', 'bmp')[number]}", size=size)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (96, 64), "teal").save(tmp_path / "images/turned.jpg", exif=exif)
    cut = paint("cut.jpg", size=(200, 200))
    cut.write_bytes(cut.read_bytes()[:900])
    return tmp_path / "images"


def test_headers_alone_give_the_same_sizes_and_plan_as_a_full_read(folder: Path) -> None:
    (folder / "cut.jpg").unlink()
    by_header, in_full = (scan([folder], replace(OPTIONS, headers_only=only)) for only in (True, False))
    assert (by_header.num_unread, in_full.num_unread) == (5, 0)
    assert in_full.fingerprint and not by_header.fingerprint  # which stands for contents
    assert by_header.examples == in_full.examples
    plans = [plan_epoch(found.examples, seed=1, epoch=0, batch_size=2, grad_accum=1) for found in (by_header, in_full)]
    assert plans[0] == plans[1]


def test_a_header_does_not_reveal_damage_but_a_remembered_result_does(folder: Path, tmp_path: Path) -> None:
    remembering = replace(OPTIONS, index_path=tmp_path / "user/index.json")
    quick = replace(remembering, headers_only=True)
    assert "cut.jpg" in [example.name for example in scan([folder], quick).examples]
    assert not (tmp_path / "user").exists()  # what was not read in full is not remembered
    assert [problem.path for problem in scan([folder], remembering).problems] == ["cut.jpg"]
    again = scan([folder], quick)
    assert [problem.path for problem in again.problems] == ["cut.jpg"] and again.num_unread == 0


def test_a_nonsensical_header_is_reported_even_by_a_quick_look(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "page.jpg").write_text("<!doctype html><html>")
    quick = replace(OPTIONS, headers_only=True, index_path=tmp_path / "user/index.json")
    found = scan([folder], quick)
    assert [(problem.path, "HTML" in problem.what) for problem in found.problems] == [("page.jpg", True)]
    assert found.num_unread == 6
    monkeypatch.setattr("ed2.data.images.check_image", pytest.fail)  # what was read in full is remembered
    assert scan([folder], quick) == found


def test_an_outline_comes_before_images_are_read_in_full_and_only_then(folder: Path, tmp_path: Path) -> None:
    told: list[object] = []
    options = replace(OPTIONS, index_path=tmp_path / "user/index.json")
    for _ in range(2):
        scan([folder], options, on_outline=told.append, progress=lambda done, _: told.append(done))
    outline, *counts = [entry for entry in told if entry]
    assert outline == Outline(6, 6, {(64, 64): 2, (80, 48): 1, (48, 80): 2, (128, 32): 1})
    assert counts == [1, 2, 3, 4, 5, 6, 6]
    assert str(outline) == "6 images in 4 sizes; reading 6 new or changed in full"


def test_a_quick_look_can_be_stopped(folder: Path) -> None:
    asked: list[int] = []

    def enough() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(StopRequested):
        scan([folder], replace(OPTIONS, headers_only=True), should_stop=enough)


def test_an_image_takes_less_than_a_kilobyte_of_memory(paint: Painter, tmp_path: Path) -> None:
    content = paint("0000.png", size=(64, 64)).read_bytes()
    for number in range(400):
        path = tmp_path / f"images/{number:04}.png"
        path.write_bytes(content)
        tags = ", ".join(f"tag {number * step % 97}" for step in range(1, 8))
        path.with_suffix(".txt").write_text(f"image number {number}, {tags}")
    options = replace(OPTIONS, shuffle_tags=True, headers_only=True)
    scan([tmp_path / "images"], options)  # what is made once and kept by the libraries is not an image's
    tracemalloc.start()
    try:
        dataset = scan([tmp_path / "images"], options)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(dataset.examples) == 400
    assert taken / 400 < 1024


def turned_png(path: Path, exif: bytes, xmp: str) -> None:
    texts = PngInfo()
    texts.add_text("parameters", "a cat " * 2000)
    if xmp:
        texts.add_itxt("XML:com.adobe.xmp", xmp)
    Image.new("RGB", (96, 64), "teal").save(path, pnginfo=texts, exif=exif or None)


def turned_webp(path: Path, exif: bytes, xmp: str) -> None:
    Image.new("RGB", (96, 64), "teal").save(path, exif=exif, xmp=xmp.encode())


def turned_jpeg(path: Path, exif: bytes, xmp: str) -> None:
    Image.new("RGB", (96, 64), "teal").save(path, exif=exif, xmp=xmp.encode())


@pytest.mark.parametrize("by", ["exif", "xmp", "neither"])
@pytest.mark.parametrize("write", [turned_png, turned_webp, turned_jpeg])
def test_a_header_tells_how_any_image_is_turned(
    write: Callable[[Path, bytes, str], None], by: str, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6 if by == "exif" else 1
    xmp = '<rdf:Description tiff:Orientation="6"/>' if by == "xmp" else ""
    path = tmp_path / f"image.{write.__name__.removeprefix('turned_')}"
    write(path, b"" if by == "xmp" else exif.tobytes(), xmp)
    size = (96, 64) if by == "neither" else (64, 96)
    assert header_size(path) == check_image(path).size == size
