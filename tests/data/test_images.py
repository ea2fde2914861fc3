import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ed2.data.file_kinds import FORMATS
from ed2.data.images import ImageError, check_image, decode, header_size

SIZE = (48, 40)


def gradient(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([rows * 255 // size[1], columns * 255 // size[0], (rows + columns) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def what_is_wrong(path: Path) -> str:
    problem = check_image(path).problem
    assert problem is not None and problem.fix and problem.path == str(path)
    with pytest.raises(ImageError):
        decode(path)
    return problem.what


@pytest.mark.parametrize("kind", FORMATS)
def test_every_accepted_format_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.png"
    gradient().save(path, format=kind, **({"sizes": [SIZE]} if kind == "ICO" else {}))
    image = decode(path)
    assert (image.mode, image.size) == ("RGB", SIZE)
    assert check_image(path).problem is None
    assert header_size(path) == SIZE


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
@pytest.mark.parametrize("kept", [0.3, 0.7])
def test_a_file_that_is_cut_short_is_found(tmp_path: Path, kind: str, kept: float) -> None:
    data = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(data, format=kind)
    path = tmp_path / "cat.png"
    path.write_bytes(data.getvalue()[: int(len(data.getvalue()) * kept)])
    what = what_is_wrong(path)
    assert "cut short" in what or "damaged" in what
    if kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF"):
        assert what == f"the file is cut short at {path.stat().st_size:,} bytes."


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (bytes(5000), "only zeros"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page (HTML)"),
        (b"\xef\xbb\xbf \n<html lang=en>" + b" " * 3000, "web page (HTML)"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG format"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("just some words about a Kätzchen\n".encode() * 100, "this is text"),
        (b"8BPS\0\1" + bytes(100), "Photoshop (PSD) format"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "reading HEIC needs"),
        (b"\0\0\0\x18ftypisom" + bytes(100), "MP4 video format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS format"),
        (b"%PDF-1.7\n", "PDF format"),
        (b"PK\x03\x04" + bytes(100), "ZIP format"),
        (b"\0\0\1\0\1\0" + bytes(100), "cut short"),
        (b"P6\n2 2\n255\n" + bytes(2), "cut short"),
        (bytes(range(1, 256)) * 8, "not an image in a supported format"),
        (b"\x89PNG\r\n\x1a\n" + b"junk" * 50 + b"IEND", "damaged"),
    ],
)
def test_files_that_are_not_images_are_identified(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    assert words in what_is_wrong(path)


def test_a_missing_file_is_reported_but_not_remembered(tmp_path: Path) -> None:
    facts = check_image(tmp_path / "gone.png")
    assert facts.problem and "no longer exists" in facts.problem.what
    assert not facts.lasting


def test_a_damaged_file_stays_damaged(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"")
    assert check_image(tmp_path / "cat.png").lasting


def png_claiming(size: tuple[int, int]) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60000, 60000), (12000, 12000), (10001, 10000)])
def test_more_than_100_million_pixels_are_refused_unread(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(size))
    assert "too many pixels" in what_is_wrong(path)


def test_100_million_pixels_are_not_too_many(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_claiming((10000, 10000)))
    assert "too many" not in what_is_wrong(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_rotated_by_its_exif_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / "turned.jpg"
    marked = Image.new("RGB", (64, 32), "black")
    marked.paste("white", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    marked.save(path, format=kind, exif=exif, quality=95)
    image = decode(path)
    corner = {1: "lt", 2: "rt", 3: "rb", 4: "lb", 5: "lt", 6: "rt", 7: "rb", 8: "lb"}[orientation]
    x = 4 if corner[0] == "l" else image.width - 5
    y = 4 if corner[1] == "t" else image.height - 5
    assert image.size == ((64, 32) if orientation < 5 else (32, 64))
    assert check_image(path).size == image.size
    assert np.asarray(image)[y, x].min() > 200
    assert np.asarray(image).mean() < 60


def test_a_header_gives_the_upright_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient().save(tmp_path / "turned.jpg", exif=exif)
    assert header_size(tmp_path / "turned.jpg") == (SIZE[1], SIZE[0])


def xmp_with_orientation(value: int) -> bytes:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="{value}"/></x:xmpmeta>'.encode()


@pytest.mark.parametrize("orientation", [0, 1, 3, 6, 9])
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("more", ["", "thumbnail", "progressive", "xmp"])
def test_every_header_of_a_jpeg_gives_the_size_of_a_full_read(
    tmp_path: Path, orientation: int, endian: str, more: str
) -> None:
    exif, path = Image.Exif(), tmp_path / "turned.jpg"
    exif.endian = endian
    exif[0x010F] = "a maker of cameras"
    exif[0x0112] = orientation
    if more == "thumbnail":
        exif[0x9286] = "a" * 30_000  # so that the size is beyond the first read
    options = {"xmp": xmp_with_orientation(8)} if more == "xmp" else {}
    gradient().save(path, exif=exif, progressive=more == "progressive", **options)
    assert header_size(path) == check_image(path).size


@pytest.mark.parametrize("kind", ["exif", "xmp", "both"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_png_that_says_behind_its_pixels_how_it_is_turned_has_the_size_of_a_full_read(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    exif, path = Image.Exif(), tmp_path / "turned.png"
    exif[0x0112] = orientation
    chunks = []
    if kind != "xmp":
        chunks.append(chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    if kind != "exif":
        chunks.append(chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + xmp_with_orientation(orientation)))
    gradient().save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-12] + b"".join(chunks) + content[-12:])
    assert header_size(path) == check_image(path).size == (SIZE if orientation == 1 else (SIZE[1], SIZE[0]))


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_headers_that_are_cut_anywhere_are_never_taken_for_another_size(tmp_path: Path) -> None:
    exif, path = Image.Exif(), tmp_path / "cut.jpg"
    exif[0x0112] = 6
    gradient().save(path, exif=exif)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert header_size(path) in (None, (SIZE[1], SIZE[0]))


def test_a_header_of_something_else_gives_no_size(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"no image")
    assert header_size(tmp_path / "cat.png") is None
    assert header_size(tmp_path / "gone.png") is None


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_become_white(tmp_path: Path, mode: str) -> None:
    red = Image.new("RGBA", SIZE, (255, 0, 0, 0))
    red.paste((255, 0, 0, 255), (0, 0, 8, 8))
    path = tmp_path / ("red.tif" if mode == "PA" else "red.png")
    (red.convert("RGBA") if mode == "PA" else red.convert(mode)).save(path)
    pixels = np.asarray(decode(path))
    assert pixels[-1, -1].tolist() == [255, 255, 255]
    assert pixels[0, 0, 2] < 200


def test_a_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    palette = Image.new("P", SIZE, 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (0, 0, 8, 8))
    palette.save(tmp_path / "palette.png", transparency=0)
    pixels = np.asarray(decode(tmp_path / "palette.png"))
    assert pixels[0, 0].tolist() == [0, 0, 255]
    assert pixels[-1, -1].tolist() == [255, 255, 255]


def test_a_transparent_colour_of_an_rgb_image_becomes_white(tmp_path: Path) -> None:
    Image.new("RGB", SIZE, (1, 2, 3)).save(tmp_path / "key.png", transparency=(1, 2, 3))
    assert np.asarray(decode(tmp_path / "key.png")).min() == 255


def deep_grey(dtype: str, top: float) -> np.ndarray:
    return np.linspace(0, top, SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0]).astype(dtype)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("deep.png", deep_grey("uint16", 65535)),
        ("deep.tif", deep_grey("uint16", 65535)),
        ("deep.tif", deep_grey("int32", 65535)),
        ("deep.tif", deep_grey("int32", 2_000_000)),
        ("deep.tif", deep_grey("float32", 1)),
        ("deep.tif", deep_grey("float32", 255)),
        ("deep.tif", deep_grey("float32", 4000) - 2000),
    ],
)
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, name: str, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / name)
    pixels = np.asarray(decode(tmp_path / name)).astype(int)
    expected = np.linspace(0, 255, pixels.shape[0] * pixels.shape[1]).reshape(pixels.shape[:2])
    assert np.abs(pixels - expected[..., None]).max() <= 1


def test_a_dark_16_bit_image_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 48), 6554, dtype=np.uint16)).save(tmp_path / "dark.png")
    assert np.unique(np.asarray(decode(tmp_path / "dark.png"))).tolist() == [26]


def test_numbers_that_are_not_finite_do_no_harm(tmp_path: Path) -> None:
    values = deep_grey("float32", 1)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "deep.tif")
    assert np.asarray(decode(tmp_path / "deep.tif"))[-1, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("mode", "name"), [("CMYK", "x.jpg"), ("CMYK", "x.tif"), ("1", "x.png"), ("L", "x.jpg")])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str, name: str) -> None:
    path = tmp_path / name
    gradient(mode).save(path)
    expected = gradient(mode).convert("RGB")
    assert np.abs(np.asarray(decode(path)).astype(int) - np.asarray(expected)).mean() < 12


def test_colours_in_lab_become_rgb(tmp_path: Path) -> None:
    Image.new("LAB", SIZE, (128, 128, 128)).save(tmp_path / "lab.tif")
    assert np.unique(np.asarray(decode(tmp_path / "lab.tif"))).tolist() == [119]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_frame_of_an_animation_is_used(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "moving.gif"
    first, second = Image.new("RGB", SIZE, "red"), Image.new("RGB", SIZE, "blue")
    first.save(path, format=kind, save_all=True, append_images=[second])
    red, _, blue = np.asarray(decode(path))[5, 5].tolist()
    assert red > 200 and blue < 60
    assert check_image(path).animated


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_does_not_spoil_the_image(tmp_path: Path) -> None:
    gradient().save(tmp_path / "cat.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode(tmp_path / "cat.jpg").size == SIZE


def test_a_jpeg_is_decoded_smaller_only_if_that_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    gradient(size=(801, 600)).save(path)
    assert decode(path).size == (801, 600)
    assert decode(path, at_least=(401, 300)).size == (801, 600)
    assert decode(path, at_least=(400, 300)).size == (401, 300)
    assert decode(path, at_least=(100, 75)).size == (101, 75)


def test_the_required_size_applies_to_the_upright_image(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient(size=(800, 100)).save(path, exif=exif)
    assert decode(path, at_least=(50, 400)).size == (50, 400)


def test_a_flipped_bit_in_a_png_is_found(paint: Callable[..., Path]) -> None:
    path = paint("cat.png")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "damaged" in what_is_wrong(path)
    with pytest.raises(ImageError, match="damaged"):
        decode(path, at_least=(32, 32))


def damaged_jpegs() -> Iterator[bytes]:
    """JPEGs cut short, with bytes changed, and with bytes taken out."""
    generator = np.random.default_rng(3)
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 4}):
        stream = io.BytesIO()
        gradient(size=(161, 120)).save(stream, "JPEG", **options)
        for kind in range(120):
            data = bytearray(stream.getvalue())
            place, length = generator.integers(2, len(data)), int(generator.integers(1, 100))
            if kind % 3 == 0:
                del data[place:]
            elif kind % 3 == 1:
                data[place] = length
            else:
                del data[place : place + length]
            yield bytes(data)


def test_a_check_that_decodes_smaller_finds_the_same_jpegs_damaged(tmp_path: Path) -> None:
    found = {True: 0, False: 0}
    for data in damaged_jpegs():
        path = tmp_path / "cat.jpg"
        path.write_bytes(data)
        facts = check_image(path)
        try:
            whole = decode(path)
        except ImageError as error:
            assert facts.problem and facts.problem.what == error.what
        else:
            assert not facts.problem and facts.size == whole.size
        found[facts.problem is None] += 1
    assert min(found.values()) > 50
