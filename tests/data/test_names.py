"""Nothing is passed over in silence: images of any name, captions of any form of the name, folders of the system."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from ed2.app.images.captions import CaptionReader
from ed2.app.images.edits import Edits
from ed2.data.colour import profile_of_codes
from ed2.data.example import Dataset, FindingKind
from ed2.data.file_kinds import can_read_heif, open_heif
from ed2.data.folder import ScanOptions, scan
from ed2.data.images import check_image, decode
from ed2.data.report import ReportOptions, as_json, as_text, start_lines

Painter = Callable[..., Path]
PLAN = ReportOptions(seed=1, batch_size=1, grad_accum=1, max_epochs=1)


def read(*roots: Path) -> Dataset:
    return scan(roots, ScanOptions(resolution=64))


def noted(dataset: Dataset, kind: FindingKind) -> list[str | None]:
    return [note.path for note in dataset.notes if note.kind == kind]


def save_as(paint: Painter, name: str, kind: str) -> None:
    """Write an image of a format under any name."""
    path = paint(f"{name}.png", caption=f"caption {name}")
    with Image.open(path) as image:
        image.load()
    path.with_suffix(".txt").rename(path.with_name(f"{name.rpartition('.')[0] or name}.txt"))
    path.unlink()
    image.save(path.with_name(name), format=kind)


def test_images_of_any_name_are_used(paint: Painter, tmp_path: Path) -> None:
    kinds = {"a.jpe": "JPEG", "b.jpg_large": "JPEG", "c": "PNG", "d.apng": "PNG", "e.mpo": "JPEG", "f.ico": "ICO"}
    kinds |= {"g.ppm": "PPM", "h.jp2": "JPEG2000", "i.dds": "DDS", "k.unknown": "WEBP", "l.123": "GIF", "m.PNG_": "BMP"}
    for name, kind in kinds.items():
        save_as(paint, name, kind)
    dataset = read(tmp_path / "images")
    assert {example.name for example in dataset.examples} == set(kinds)
    assert all(example.caption.startswith("caption ") for example in dataset.examples)
    assert not dataset.problems and not noted(dataset, "orphan")


def test_images_that_cannot_be_read_are_named_whatever_they_are_called(paint: Painter, tmp_path: Path) -> None:
    folder = paint("good.png").parent
    contents = {
        "o.psd": b"8BPS" + bytes(100),
        "p.svg": b"<svg/>",
        "q.mp4": bytes(99),
        "r": b"8BPS\0\1",
        "s.zip": b"PK",
        "t.tga": bytes(99),
        "u.cr2": b"II*\0" + bytes(99),
        "v.ps_": b"%!PS-Adobe",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    for name in ("README", "notes.md", "script.py", "weights.safetensors", "Thumbs.db"):
        (folder / name).write_bytes(b"II*\0 something else")
    (folder / "README").write_text("words")
    dataset = read(folder)
    assert [problem.path for problem in dataset.problems] == sorted(contents)
    assert len(dataset.examples) == 1


@pytest.mark.skipif(can_read_heif(), reason="the optional package is installed")
@pytest.mark.parametrize("name", ["x.heic", "x.HEIF", "x.jpg", "x"])
def test_a_heic_says_how_to_read_it(paint: Painter, name: str) -> None:
    folder = paint("good.png").parent
    (folder / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(300))
    (problem,) = read(folder).problems
    assert "pillow-heif" in problem.what and "./launch.sh add heif" in problem.fix


needs_heif = pytest.mark.skipif(not can_read_heif(), reason="needs the optional package pillow-heif")


def heic(path: Path, image: Image.Image, **options: object) -> Path:
    """Write a HEIC under any name."""
    with pytest.raises(OSError):
        open_heif(path.parent / "none")  # which also teaches Pillow to write one
    image.save(path, format="HEIF", quality=95, **options)
    return path


@needs_heif
@pytest.mark.parametrize("name", ["x.heic", "x.HEIF", "x.jpg", "x"])
def test_a_heic_is_read_with_the_optional_package(tmp_path: Path, name: str) -> None:
    path = heic(tmp_path / name, Image.new("RGB", (96, 64), (200, 40, 40)))
    (tmp_path / "x.txt").write_text("a cat")
    dataset = read(tmp_path)
    assert [(one.name, one.caption, one.size) for one in dataset.examples] == [(name, "a cat", (96, 64))]
    assert not dataset.problems
    found = decode(path).getpixel((48, 32))
    assert isinstance(found, tuple) and max(abs(a - b) for a, b in zip(found, (200, 40, 40), strict=True)) <= 6


@needs_heif
def test_a_heic_is_turned_upright_once_and_its_profile_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (96, 64), (200, 40, 40))
    image.paste((40, 40, 200), (0, 0, 48, 64))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = heic(tmp_path / "x.heic", image, exif=exif.tobytes())
    turned = decode(path)
    assert turned.size == check_image(path).size == (64, 96)
    top, bottom = turned.getpixel((32, 20)), turned.getpixel((32, 76))
    assert isinstance(top, tuple) and top[2] > 150 and isinstance(bottom, tuple) and bottom[0] > 150
    wide = heic(tmp_path / "wide.heic", Image.new("RGB", (64, 64), (200, 40, 40)), icc_profile=wide_profile())
    found = decode(wide).getpixel((32, 32))
    assert isinstance(found, tuple) and found[0] > 215 and "converted" in check_image(wide).marks


@needs_heif
def test_a_damaged_heic_is_left_out(tmp_path: Path) -> None:
    sound = heic(tmp_path / "sound.heic", Image.new("RGB", (96, 64), (200, 40, 40)))
    for length in (40, 200, len(sound.read_bytes()) - 20):
        (tmp_path / f"cut{length}.heic").write_bytes(sound.read_bytes()[:length])
    dataset = read(tmp_path)
    assert [one.name for one in dataset.examples] == ["sound.heic"] and len(dataset.problems) == 3


def wide_profile() -> bytes:
    profile = profile_of_codes(12, 13)  # Display P3
    assert profile
    return profile


CAPTIONS = {
    "IMG_1.png": "img_1.txt",
    unicodedata.normalize("NFD", "Bär_2.png"): unicodedata.normalize("NFC", "Bär_2.txt"),
    unicodedata.normalize("NFC", "Öl_7.png"): unicodedata.normalize("NFD", "ÖL_7.caption"),
    "cat_3.png": "cat_3.png.txt",
    "dog_4.png": "Dog_4.PNG.TXT",
    "ΣΊΣΥΦΟΣ_5.png": "σίσυφος_5.yaml",
}


def test_captions_are_found_in_any_case_and_unicode_form(paint: Painter, tmp_path: Path) -> None:
    for image, caption in CAPTIONS.items():
        text = f"main_prompt: of {image}" if caption.endswith("yaml") else f"of {image}"
        paint(image).with_name(caption).write_text(text, encoding="utf-8")
    dataset = read(tmp_path / "images")
    assert {example.name: example.caption for example in dataset.examples} == {name: f"of {name}" for name in CAPTIONS}
    assert not noted(dataset, "orphan")


def test_a_file_of_the_exact_name_goes_to_that_image_alone(paint: Painter, tmp_path: Path) -> None:
    if paint("a.png", caption="small").with_name("A.txt").exists():
        pytest.skip("this disk does not tell case")
    paint("A.png")
    paint("b.png", caption="by stem")
    paint("b.jpg").with_name("b.jpg.txt").write_text("by full name")
    captions = {example.name: example.caption for example in read(tmp_path / "images").examples}
    assert captions == {"a.png": "small", "A.png": "A", "b.png": "by stem", "b.jpg": "by full name"}


def test_captions_that_are_not_used_are_named(paint: Painter, tmp_path: Path) -> None:
    folder = paint("one.png", caption="used").parent
    paint("in/two.png", caption="used")
    names = ("orphan.txt", "in/other.caption", "three.yaml", "one.json", "metadata.jsonl", "captions.csv", "ONE.md")
    for name in names:
        (folder / name).write_text("words")
    (folder / "multiply.txt").write_text("2")
    (folder / "readme.md").write_text("words")
    dataset = read(folder)
    assert noted(dataset, "orphan") == ["orphan.txt", "three.yaml", "in/other.caption"]
    assert sorted(map(str, noted(dataset, "unread"))) == ["ONE.md", "captions.csv", "metadata.jsonl", "one.json"]
    assert {note["path"] for note in as_json(dataset, PLAN)["notes"]} >= set(names)
    assert "Caption files without an image; not used (3): orphan.txt, " in as_text(dataset, PLAN)
    assert any("orphan.txt" in line for line in start_lines(dataset))


def test_an_edit_is_saved_where_the_caption_was_found(paint: Painter, tmp_path: Path) -> None:
    image = paint("IMG_1.png")

    def edited(name: str) -> str:
        example = next(example for example in read(image.parent).examples if example.name == name)
        return CaptionReader([image.parent]).read(example).file.name

    assert edited("IMG_1.png") == "IMG_1.txt"
    if not image.with_name("img_1.png").exists():
        image.with_name("img_1.txt").write_text("old")
        assert edited("IMG_1.png") == "img_1.txt"
        own = CaptionReader([image.parent]).read(read(image.parent).examples[0])
        Edits(tmp_path / "edits").write("it", [own.changed_to("new")])
        assert read(image.parent).examples[0].caption == "new"
    other = paint("b.c.png")
    assert edited("b.c.png") == "b.c.txt"
    other.with_name("b.c.png.txt").write_text("old")
    assert edited("b.c.png") == "b.c.png.txt"


SYSTEM = [
    "@eaDir/real.png/SYNOPHOTO_THUMB_XL.jpg",
    "#recycle/a.png",
    "$RECYCLE.BIN/S-1-5/$R1.png",
    "__MACOSX/b.png",
    "lost+found/c.png",
    "System Volume Information/d.png",
    "in/@eaDir/e.jpg",
    "@Recycle/f.png",
]


def test_folders_of_the_system_are_left_out_and_named(paint: Painter, tmp_path: Path) -> None:
    paint("real.png")
    paint("in/real.png", size=(80, 64))
    for name in SYSTEM:
        paint(name)
    dataset = read(tmp_path / "images")
    assert [example.name for example in dataset.examples] == ["in/real.png", "real.png"]
    folders = {name.partition("/")[0] for name in SYSTEM} - {"in"} | {"in/@eaDir"}
    assert set(noted(dataset, "system")) == folders
    assert not dataset.problems


def test_a_folder_that_is_chosen_itself_is_read_whatever_its_name(paint: Painter, tmp_path: Path) -> None:
    paint("#recycle/a.png")
    assert len(read(tmp_path / "images/#recycle").examples) == 1
