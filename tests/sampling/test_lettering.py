"""Text in images: letters of a font that has them, else their escape, never a box."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ed2.sampling.lettering import OWN_FONT, Lettering, pieces_of

COVERED = (
    "a cat, with (quotes) 'single' \"double\" # - *",
    "Ännä äöüß éñç ÅåØøÆæ ŁłŻżŚś ŐőŰű ŢţŞş",
    "– — “x” ‘y’ … € £ ° × ÷",
    "Кошка сидит Київ ѝ",
    "γάτα Ελληνικά ώ",
)


@pytest.mark.parametrize("text", COVERED)
def test_latin_greek_and_cyrillic_are_drawn_by_the_font_that_comes_along(text: str) -> None:
    assert pieces_of(text) == ((text, str(OWN_FONT)),)


def test_the_licence_lies_next_to_the_font() -> None:
    text = (OWN_FONT.parent / "LICENSE-DejaVu.txt").read_text()
    assert "Bitstream Vera" in text and "Tavmjong Bah" in text


@pytest.mark.parametrize("text", ["猫が座る", "고양이", "قطة", "a\u202eb", "\x1b[2J", "🐱‍👤", "\U0010fffe"])
def test_what_no_font_has_is_spelled_out(text: str) -> None:
    for piece, font in pieces_of(text):
        missing = ImageFont.truetype(font, 16).getmask("\U0010ffff")
        for letter in piece.strip():
            mask = ImageFont.truetype(font, 16).getmask(letter)
            assert (mask.size, bytes(mask)) != (missing.size, bytes(missing)), ascii(letter)
    drawn = "".join(piece for piece, _ in pieces_of(text))
    assert drawn == text or "\\" in drawn


@pytest.mark.parametrize("anchor", ["la", "ls", "lm", "ms", "mm"])
def test_text_lies_where_pillow_puts_it(anchor: str) -> None:
    ours, theirs = (Image.new("L", (300, 80), 255) for _ in range(2))
    Lettering(20).draw(ImageDraw.Draw(ours), (150, 40), "Ännä g", (0,), anchor=anchor)
    font = ImageFont.truetype(str(OWN_FONT), 20)
    ImageDraw.Draw(theirs).text((150, 40), "Ännä g", 0, font, anchor=anchor)
    boxes = [Image.fromarray(255 - np.asarray(image)).getbbox() for image in (ours, theirs)]
    assert boxes[0] and boxes[1]
    assert np.abs(np.subtract(*boxes)).max() <= 1


def test_a_sheet_of_prompts_in_many_languages_is_drawn(tmp_path: Path) -> None:
    from ed2.sampling.prompt import Prompt
    from ed2.sampling.sheet import contact_sheet
    from tests.past_runs import write_sample

    run_dir = tmp_path / "Ännä_猫"
    for index, text in enumerate([*COVERED, "猫が座る " * 30, "\x1b[2J"]):
        tiles = [Image.new("RGB", (64, 64), (0, 90, 200))]
        write_sample(run_dir, step=0, prompt=Prompt(index, text, 0, (64, 64), "", (4.0,)), tiles=tiles)
    sheet = contact_sheet(run_dir)
    assert sheet
    with Image.open(sheet) as image:
        assert image.height > 64 * 7
