"""What a file carries besides pixels does not decide whether it is used; large JPEGs; images that show nothing."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ed2.data.folder import ScanOptions, scan
from ed2.data.images import check_image, decode
from ed2.data.pixels import LoaderOptions, load_image
from ed2.data.variants import VisitKey
from tests.data.test_colour import profile
from tests.hostile.painting import chunk

LARGE = "x" * (3 << 20)


def texts(kind: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    if kind == "zTXt":
        info.add_text("workflow", LARGE, zip=True)
    elif kind == "iTXt":
        info.add_itxt("workflow", LARGE, zip=True)
    else:
        for number in range(70):
            info.add_text(f"part {number}", "x" * (1 << 20))
    return info


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "tEXt"])
def test_large_texts_in_a_png_change_nothing(paint: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    plain = paint("fine.png")
    with Image.open(plain) as image:
        image.save(tmp_path / "x.png", pnginfo=texts(kind))
    assert check_image(tmp_path / "x.png").problem is None
    assert decode(tmp_path / "x.png").tobytes() == decode(plain).tobytes()


def test_a_profile_of_two_megabytes_of_rubbish_is_ignored(paint: Callable[..., Path], tmp_path: Path) -> None:
    plain = paint("fine.png")
    with Image.open(plain) as image:
        image.save(tmp_path / "x.png", icc_profile=profile() + bytes(2 << 20))
    assert check_image(tmp_path / "x.png").marks == {"bad profile"}
    assert decode(tmp_path / "x.png").tobytes() == decode(plain).tobytes()


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP"])
def test_damage_in_side_data_is_no_damage_of_the_image(paint: Callable[..., Path], name: bytes, place: str) -> None:
    path = paint("fine.png")
    data, pixels = path.read_bytes(), decode(path).tobytes()
    broken = chunk(name, b"key\0\5junk", crc=1)
    cut = 33 if place == "before" else len(data) - 12
    path.write_bytes(data[:cut] + broken + data[cut:])
    assert check_image(path).problem is None
    assert decode(path).tobytes() == pixels


def test_a_large_text_does_not_hide_damage_or_the_orientation(paint: Callable[..., Path], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(paint("fine.png", size=(96, 64))) as image:
        image.save(tmp_path / "x.png", pnginfo=texts("zTXt"), exif=exif)
    assert decode(tmp_path / "x.png").size == check_image(tmp_path / "x.png").size == (64, 96)
    data = bytearray((tmp_path / "x.png").read_bytes())
    data[-200] ^= 1
    (tmp_path / "x.png").write_bytes(data)
    assert check_image(tmp_path / "x.png").problem


def large_jpeg(path: Path, size: tuple[int, int], **options: object) -> Path:
    """A JPEG whose left half is red and whose right half is blue."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    image.save(path, "JPEG", quality=60, **options)
    return path


@pytest.mark.parametrize("size", [(12000, 9000), (16320, 12240)], ids=["108 MP", "200 MP"])
def test_a_jpeg_of_a_phone_is_decoded_smaller(tmp_path: Path, size: tuple[int, int]) -> None:
    large_jpeg(tmp_path / "x.jpg", size)
    found = scan([tmp_path], ScanOptions(resolution=512))
    (example,) = found.examples
    assert example.size == size and not found.problems
    assert decode(tmp_path / "x.jpg").size == (size[0] // 2, size[1] // 2)
    pixels = load_image(example, VisitKey(0, example.key, 0), LoaderOptions(seed=1, batch_size=1)).pixels
    assert pixels.shape == (example.bucket[1], example.bucket[0], 3)
    assert pixels[9, 9, 0] > 240 > 15 > pixels[9, 9, 2] and pixels[9, -9, 2] > 240


def test_a_progressive_jpeg_that_large_takes_too_much_memory(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG", progressive=True, subsampling=0)
    data = stream.getvalue()
    frame = data.index(b"\xff\xc2") + 5
    (tmp_path / "x.jpg").write_bytes(data[:frame] + b"\x40\x00\x30\x00" + data[frame + 4 :])
    problem = check_image(tmp_path / "x.jpg").problem
    assert problem and "too many pixels" in problem.what


@pytest.mark.parametrize("name", ["mask.png", "palette.png", "key.png", "moving.webp"])
def test_an_image_that_is_transparent_throughout_is_refused(
    paint: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    clear = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 4), dtype=np.uint8), "RGBA")
    clear.putalpha(0)
    if name == "palette.png":
        clear.convert("RGB").quantize(8).save(tmp_path / name, transparency=bytes(8))
    elif name == "key.png":
        Image.new("RGB", (64, 64), (1, 2, 3)).save(tmp_path / name, transparency=(1, 2, 3))
    else:
        more = {"save_all": True, "append_images": [Image.new("RGBA", (64, 64), "red")]} if "webp" in name else {}
        clear.save(tmp_path / name, **more)
    problem = check_image(tmp_path / name).problem
    assert problem and "shows nothing: it is transparent throughout" in problem.what


def test_one_visible_pixel_is_enough(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (64, 64))
    clear.putpixel((3, 5), (255, 0, 0, 255))
    clear.save(tmp_path / "x.png")
    assert check_image(tmp_path / "x.png") == check_image(tmp_path / "x.png")
    assert check_image(tmp_path / "x.png").problem is None


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.gif", "x.tif"])
def test_one_plain_colour_is_a_note(paint: Callable[..., Path], tmp_path: Path, name: str) -> None:
    paint("other.png")
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "images" / name, lossless=True)
    found = scan([tmp_path / "images"], ScanOptions(resolution=64))
    assert [note.path for note in found.notes if note.kind == "plain"] == [name]
    assert len(found.examples) == 2


def test_fine_lines_are_not_one_colour(tmp_path: Path) -> None:
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[:, ::2] = 255
    Image.fromarray(lines).save(tmp_path / "x.jpg", quality=95)
    assert not check_image(tmp_path / "x.jpg").marks
