"""Colour spaces: what is trained is sRGB, from every format that says which space its pixels are in."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from ed2.data.colour import Primaries, matrix_profile
from ed2.data.folder import ScanOptions, scan
from ed2.data.images import check_image, decode
from ed2.data.pixels import LoaderOptions, load_image
from ed2.data.variants import VisitKey
from tests.hostile.painting import chunk

STORED = (200, 40, 40)
D65 = (0.3127, 0.3290)
P3: Primaries = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65)
ADOBE: Primaries = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65)
PROPHOTO: Primaries = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), (0.3457, 0.3585))
SPACES = {
    "p3": (P3, 2.2, (220, 0, 17)),
    "adobe": (ADOBE, 2.2, (233, 35, 35)),
    "prophoto": (PROPHOTO, 1.8, (255, 0, 49)),
}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def profile(primaries: Primaries = P3, gamma: float = 2.2) -> bytes:
    made = matrix_profile(primaries, np.linspace(0, 1, 1024) ** gamma)
    assert made
    return made


def is_close(found: object, wanted: tuple[int, ...], levels: int = 3) -> bool:
    return bool(np.abs(np.subtract(found, wanted)).max() <= levels)  # type: ignore[call-overload]


def written(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def png_with(path: Path, *chunks: tuple[bytes, bytes], image: Image.Image | None = None) -> Path:
    """Write a PNG with chunks between its head and its pixels."""
    stream = io.BytesIO()
    (image or Image.new("RGB", (64, 64), STORED)).save(stream, "PNG")
    data = stream.getvalue()
    path.write_bytes(data[:33] + b"".join(chunk(name, content) for name, content in chunks) + data[33:])
    return path


def gray_profile(gamma: float) -> bytes:
    """A profile for grey, of version 2."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(n * 65536) for n in (0.9642, 1, 0.8249)))
    table = struct.pack(">I", 2) + b"wtpt" + struct.pack(">II", 156, 20) + b"kTRC" + struct.pack(">II", 176, 16)
    head = struct.pack(">I", 192) + bytes(4) + b"\x02\x10\0\0mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28) + white[8:]
    return head + bytes(128 - len(head)) + table + white + curve


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif", "avif"])
def test_a_matrix_profile_is_applied_in_every_format(tmp_path: Path, space: str, kind: str) -> None:
    primaries, gamma, wanted = SPACES[space]
    exact = {"webp": {"lossless": True}, "avif": {"quality": 100, "subsampling": "4:4:4"}}.get(kind, {"quality": 98})
    image = Image.new("RGB", (64, 64), STORED)
    path = written(tmp_path / f"x.{kind}", image, icc_profile=profile(primaries, gamma), **exact)
    assert is_close(decode(path).getpixel((32, 32)), wanted)
    assert "converted" in check_image(path).marks


def test_what_a_model_sees_has_the_converted_colours(tmp_path: Path) -> None:
    written(tmp_path / "x.png", Image.new("RGB", (64, 64), STORED), icc_profile=profile())
    (example,) = scan([tmp_path], ScanOptions(resolution=64)).examples
    pixels = load_image(example, VisitKey(0, example.key, 0), LoaderOptions(seed=1, batch_size=1)).pixels
    assert is_close(pixels[32, 32], (220, 0, 17))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA"])
def test_other_kinds_of_pixels_are_converted_too_and_stay_transparent(tmp_path: Path, mode: str) -> None:
    colour = STORED if mode in ("P", "RGBA") else (128, 128, 128)
    image = Image.new("RGB", (64, 64), colour).convert(mode)
    if "A" in mode:
        image.paste(0, (0, 0, 32, 64))
    path = written(tmp_path / "x.png", image, icc_profile=profile(P3, 1.0))
    lit = tuple(255 * (1.055 * (level / 255) ** (1 / 2.4) - 0.055) for level in colour)
    found = decode(path)
    if mode in ("L", "LA"):
        assert is_close(found.getpixel((48, 32)), lit)
    else:
        assert not is_close(found.getpixel((48, 32)), colour, 20)
    if "A" in mode:
        assert found.getpixel((16, 32)) == (255, 255, 255)


def test_a_grey_profile_is_applied(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jpg", Image.new("L", (64, 64), 128), icc_profile=gray_profile(1.0))
    assert is_close(decode(path).getpixel((32, 32)), (188, 188, 188))


def test_a_profile_with_tables_for_ink_is_applied(tmp_path: Path) -> None:
    """A profile that turns CMYK into Lab by a table of two points, as a printer's does by one of more."""
    grid = []
    for number in range(16):
        inks = [number >> place & 1 for place in (3, 2, 1, 0)]
        grid += [0 if any(inks) else 255, 128, 128]  # black where there is any ink
    matrix = struct.pack(">9i", *(n << 16 for n in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    head = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix
    ramp = bytes(range(256))
    table = head + ramp * 4 + bytes(grid) + ramp * 3
    table += bytes(-len(table) % 4)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(n * 65536) for n in (0.9642, 1, 0.8249)))
    tags = struct.pack(">I", 2) + b"wtpt" + struct.pack(">II", 156, 20) + b"A2B0" + struct.pack(">II", 176, len(table))
    start = struct.pack(">I", 176 + len(table)) + bytes(4) + b"\x02\x10\0\0prtrCMYKLab " + bytes(12)
    start += b"acsp" + bytes(28) + white[8:]
    made = start + bytes(128 - len(start)) + tags + white + table
    image = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    image.paste((0, 0, 0, 0), (0, 0, 32, 64))
    path = written(tmp_path / "x.tif", image, icc_profile=made)
    found = decode(path)
    assert is_close(found.getpixel((48, 32)), (0, 0, 0)) and is_close(found.getpixel((16, 32)), (255, 255, 255))


def test_codes_in_a_png_win_over_its_profile(tmp_path: Path) -> None:
    path = png_with(tmp_path / "x.png", (b"cICP", bytes([12, 13, 0, 1])))
    assert is_close(decode(path).getpixel((32, 32)), (218, 0, 26))
    packed = b"x\0\0" + zlib.compress(profile(PROPHOTO, 1.8))
    both = png_with(tmp_path / "y.png", (b"cICP", bytes([12, 13, 0, 1])), (b"iCCP", packed))
    assert decode(both).getpixel((32, 32)) == decode(path).getpixel((32, 32))
    plain = png_with(tmp_path / "z.png", (b"cICP", bytes([1, 13, 0, 1])))
    assert decode(plain).getpixel((32, 32)) == STORED


def test_gamma_and_primaries_in_a_png_are_applied_unless_it_says_that_it_is_srgb(tmp_path: Path) -> None:
    points = [*D65, *(number for point in P3[:3] for number in point)]
    named = (b"cHRM", struct.pack(">8I", *(round(number * 100_000) for number in points)))
    gamma = (b"gAMA", struct.pack(">I", 45455))
    assert is_close(decode(png_with(tmp_path / "x.png", gamma, named)).getpixel((32, 32)), (220, 0, 17))
    for number, chunks in enumerate(([gamma], [(b"sRGB", b"\0"), gamma, named], [named])):
        assert decode(png_with(tmp_path / f"{number}.png", *chunks)).getpixel((32, 32)) == STORED
    linear = png_with(tmp_path / "l.png", (b"gAMA", struct.pack(">I", 100_000)), image=Image.new("L", (64, 64), 128))
    assert is_close(decode(linear).getpixel((32, 32)), (188, 188, 188))


@pytest.mark.parametrize(
    ("codes", "wanted"), [((12, 13), (218, 0, 26)), ((9, 13), (249, 0, 27)), ((2, 2), STORED), ((1, 13), STORED)]
)
def test_codes_in_an_avif_are_applied(tmp_path: Path, codes: tuple[int, int], wanted: tuple[int, ...]) -> None:
    image = Image.new("RGB", (64, 64), STORED)
    path = written(tmp_path / "x.avif", image, quality=100, subsampling="4:4:4")
    data = path.read_bytes()
    place = data.index(b"colrnclx") + 8
    path.write_bytes(data[:place] + struct.pack(">HH", *codes) + data[place + 4 :])
    assert is_close(decode(path).getpixel((32, 32)), wanted, 4)


def test_bright_video_is_clipped_to_white(tmp_path: Path) -> None:
    grey = Image.new("L", (64, 64), 128)
    for transfer, wanted in ((16, 190), (18, 152)):
        level = decode(png_with(tmp_path / "x.png", (b"cICP", bytes([1, transfer, 0, 1])), image=grey)).getpixel((9, 9))
        assert isinstance(level, tuple) and abs(level[0] - wanted) < 25
    white = png_with(tmp_path / "x.png", (b"cICP", bytes([9, 16, 0, 1])), image=Image.new("RGB", (64, 64), "white"))
    assert decode(white).getpixel((9, 9)) == (255, 255, 255)


def test_a_profile_in_a_bmp_is_applied(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), STORED).save(tmp_path / "plain.bmp")
    pixels = (tmp_path / "plain.bmp").read_bytes()[54:]
    own = profile()
    info = struct.pack("<IiiHHIIiiII", 124, 64, 64, 1, 24, 0, len(pixels), 0, 0, 0, 0) + bytes(16) + b"DEBM" + bytes(48)
    info += struct.pack("<IIII", 0, 124 + len(pixels), len(own), 0)
    head = b"BM" + struct.pack("<IHHI", 14 + 124 + len(pixels) + len(own), 0, 0, 138)
    (tmp_path / "x.bmp").write_bytes(head + info + pixels + own)
    assert is_close(decode(tmp_path / "x.bmp").getpixel((32, 32)), (220, 0, 17))


def gif_with(path: Path, *extensions: tuple[bytes, bytes]) -> Path:
    """Write a GIF with application extensions, each a name and its content, before its first frame."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), STORED).convert("P", palette=Image.Palette.ADAPTIVE).save(stream, "GIF")
    data = stream.getvalue()
    place = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    blocks = b""
    for name, content in extensions:
        parts = [content[start : start + 255] for start in range(0, len(content), 255)]
        blocks += b"!\xff" + bytes([len(name)]) + name
        blocks += b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
    path.write_bytes(data[:place] + blocks + data[place:])
    return path


def test_a_profile_in_a_gif_is_applied_and_a_broken_one_ignored(tmp_path: Path) -> None:
    loop = (b"NETSCAPE2.0", b"\1\0\0")
    path = gif_with(tmp_path / "x.gif", loop, (b"ICCRGBG1012", profile()))
    assert is_close(decode(path).getpixel((32, 32)), (220, 0, 17))
    assert "converted" in check_image(path).marks
    broken = gif_with(tmp_path / "broken.gif", (b"ICCRGBG1012", b"no profile"))
    assert check_image(broken).marks >= {"bad profile"} and is_close(decode(broken).getpixel((9, 9)), STORED)
    other = gif_with(tmp_path / "other.gif", loop, (b"XMP DataXMP", profile()))
    assert check_image(other).marks.isdisjoint({"converted", "bad profile"})
    cut = tmp_path / "cut.gif"
    cut.write_bytes(path.read_bytes()[:900])
    assert check_image(cut).problem


@pytest.mark.parametrize("method", [b"\1", b"\2", b"\3"])
def test_a_profile_in_a_jpeg_2000_is_applied(tmp_path: Path, method: bytes) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), STORED).save(stream, "JPEG2000")
    data = stream.getvalue()
    box = data.index(b"colr") - 4
    head = data.index(b"jp2h") - 4
    old = int.from_bytes(data[box : box + 4], "big")
    colour = data[box + 8 : box + old] if method == b"\1" else method + b"\0\0" + profile()
    new = struct.pack(">I", 8 + len(colour)) + b"colr" + colour
    length = int.from_bytes(data[head : head + 4], "big") + len(new) - old
    path = tmp_path / "x.jp2"
    path.write_bytes(data[:head] + struct.pack(">I", length) + data[head + 4 : box] + new + data[box + old :])
    assert is_close(decode(path).getpixel((32, 32)), STORED if method == b"\1" else (220, 0, 17))
    assert ("converted" in check_image(path).marks) == (method != b"\1")


@pytest.mark.parametrize("kind", ["jpg", "webp"])
@pytest.mark.parametrize(
    ("space", "index", "is_adobe"),
    [
        (0xFFFF, "R03", True),
        (None, "R03", True),
        (2, None, True),
        (0xFFFF, None, False),
        (0xFFFF, "R98", False),
        (1, "R98", False),
        (1, "R03", False),
    ],
)
def test_adobe_rgb_that_only_exif_names_is_converted(
    tmp_path: Path, kind: str, space: int | None, index: str | None, is_adobe: bool
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    if space is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = space
    if index is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: index}
    exact = {"webp": {"lossless": True}}.get(kind, {"quality": 98})
    path = written(tmp_path / f"x.{kind}", Image.new("RGB", (64, 64), STORED), exif=exif, **exact)
    assert is_close(decode(path).getpixel((32, 32)), SPACES["adobe"][2] if is_adobe else STORED)
    assert ("converted" in check_image(path).marks) == is_adobe


def test_a_profile_wins_over_what_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = 2
    path = written(tmp_path / "x.jpg", Image.new("RGB", (64, 64), STORED), exif=exif, icc_profile=profile(), quality=98)
    assert is_close(decode(path).getpixel((32, 32)), (220, 0, 17))


def test_srgb_itself_and_no_profile_change_no_pixel(paint: Callable[..., Path], tmp_path: Path) -> None:
    plain = paint("plain.png", size=(64, 64))
    with Image.open(plain) as image:
        marked = written(tmp_path / "marked.png", image, icc_profile=SRGB.tobytes())
    assert decode(marked).tobytes() == decode(plain).tobytes()
    assert not check_image(marked).marks and not check_image(plain).marks


@pytest.mark.parametrize(
    "broken",
    [b"no profile at all", profile()[:600], profile() + bytes(2 << 20), gray_profile(1.0), b"\0" * 500],
    ids=["text", "cut", "too long", "for grey", "zeros"],
)
@pytest.mark.parametrize("kind", ["png", "webp", "jpg"])
def test_a_broken_profile_is_reported_and_ignored(tmp_path: Path, kind: str, broken: bytes) -> None:
    grain = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    image = Image.fromarray(grain)
    written(tmp_path / f"x.{kind}", image, icc_profile=broken, lossless=True)
    written(tmp_path / f"without.{kind}", image, lossless=True)
    found = scan([tmp_path], ScanOptions(resolution=64))
    assert len(found.examples) == 2
    assert [note.path for note in found.notes if note.kind == "bad profile"] == [f"x.{kind}"]
    assert decode(tmp_path / f"x.{kind}").tobytes() == decode(tmp_path / f"without.{kind}").tobytes()


def test_a_run_from_before_colour_profiles_is_reported_that_its_images_have_changed_only_if_they_have(
    paint: Callable[..., Path], tmp_path: Path
) -> None:
    path = paint("x.png")
    before = scan([path.parent], ScanOptions(resolution=64))
    assert not any(note.kind == "bad profile" for note in before.notes)
    with Image.open(path) as image:
        written(path, image, icc_profile=profile())
    assert scan([path.parent], ScanOptions(resolution=64)).fingerprint != before.fingerprint
