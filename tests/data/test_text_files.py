import codecs
from pathlib import Path
from typing import NamedTuple

import pytest

from ed2.data.image_config import ImageConfig, caption_in_order
from ed2.data.sidecars import describe_image
from ed2.data.text_files import MAX_BYTES, caption_from_name, decode_text


class Caption(NamedTuple):
    text: str
    note: str | None
    detail: str


def caption_of(image: Path, *files: Path) -> Caption:
    said = describe_image(image, ImageConfig(), files)
    note = said.notes[0] if said.notes else None
    return Caption(caption_in_order(said.config, said.prompt), note and note.kind, note.what if note else "")


TEXT = "ein Kätzchen, größer – als gedacht 猫"


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (TEXT.encode("utf-8"), "UTF-8"),
        (TEXT.encode("utf-8-sig"), "UTF-8"),
        (TEXT.encode("utf-16"), "UTF-16"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "UTF-16"),
        (TEXT.encode("utf-8").replace(b" ", b" \0", 1), "UTF-8"),
    ],
    ids=["utf-8", "utf-8 with mark", "utf-16 little with mark", "utf-16 big with mark", "a lone nul"],
)
def test_the_encoding_is_recognised(data: bytes, encoding: str) -> None:
    assert decode_text(data) == (TEXT, encoding)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_byte_order_mark_is_recognised_by_its_nul_bytes(encoding: str) -> None:
    assert decode_text("a red cat".encode(encoding)) == ("a red cat", "UTF-16")


def test_text_that_is_not_utf8_is_read_as_western_european_and_reported_as_a_guess() -> None:
    assert decode_text("café – crème".encode("cp1252")) == ("café – crème", "Western European (cp1252)")
    assert decode_text(b"caf\xe9 \x81") == ("café \x81", "Latin-1")
    assert decode_text(b"caf\xe9") == ("café", "Western European (cp1252)")


def test_an_odd_number_of_bytes_with_nuls_is_not_utf16() -> None:
    assert decode_text(b"a\0b\0c") == ("abc", "UTF-8")


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0", b"\xff\xfe", b"\xff\xfea", b"\xed\xa0\x80", bytes(range(256))])
def test_no_bytes_make_decoding_fail(data: bytes) -> None:
    text, _ = decode_text(data)
    assert "\0" not in text
    text.encode("utf-8")


def test_the_text_file_is_the_caption(tmp_path: Path) -> None:
    (tmp_path / "cat_1.txt").write_bytes(b"  a red cat \r\n")
    caption = caption_of(tmp_path / "cat_1.png", tmp_path / "cat_1.txt")
    assert (caption.text, caption.note) == ("a red cat", None)


def test_lines_are_joined_by_a_space(tmp_path: Path) -> None:
    (tmp_path / "cat.txt").write_bytes(b"a red cat \r\n\r\n on a mat\n")
    assert caption_of(tmp_path / "cat.png", tmp_path / "cat.txt").text == "a red cat on a mat"


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("a red cat_01.png", "a red cat"),
        ("cat.v2_x.png", "cat.v2"),
        ("cat.png", "cat"),
        ("Kätzchen_猫.jpg", "Kätzchen"),
    ],
)
def test_the_file_name_up_to_the_first_underscore_is_the_caption(name: str, caption: str) -> None:
    assert caption_from_name(Path(name)) == caption


def test_without_a_text_file_the_name_is_used_and_said_so() -> None:
    caption = caption_of(Path("cat_1.png"))
    assert (caption.text, caption.note) == ("cat", "file name")


@pytest.mark.parametrize("content", [b"", b" \r\n\t", b"\0\0", codecs.BOM_UTF8])
def test_an_empty_text_file_gives_the_file_name_and_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cat.txt").write_bytes(content)
    caption = caption_of(tmp_path / "cat.png", tmp_path / "cat.txt")
    assert (caption.text, caption.note) == ("cat", "file name")
    assert "cat.txt is empty" in caption.detail


def test_a_name_without_words_is_not_a_caption() -> None:
    assert caption_of(Path("_1.png")).note == "no caption"


def test_a_text_file_that_cannot_be_read_gives_the_file_name(tmp_path: Path) -> None:
    caption = caption_of(tmp_path / "cat.png", tmp_path / "gone.txt")
    assert (caption.text, caption.note) == ("cat", "sidecar")
    assert caption.detail.startswith("in gone.txt: it cannot be read (")


def test_no_more_than_64_kb_are_read_even_within_a_character(tmp_path: Path) -> None:
    (tmp_path / "cat.txt").write_bytes(b"a" + "ä".encode() * MAX_BYTES)
    caption = caption_of(tmp_path / "cat.png", tmp_path / "cat.txt")
    assert caption.note == "cut"
    assert set(caption.text) == {"a", "ä"} and len(caption.text.encode()) <= MAX_BYTES


def test_a_name_that_is_not_valid_text_gives_a_printable_caption() -> None:
    assert caption_from_name(Path("caf\udce9_1.png")) == "caf?"
