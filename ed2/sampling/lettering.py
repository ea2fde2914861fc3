r"""Text drawn into images: Latin, Greek, Cyrillic and more by a shipped font, the rest by the system's fonts.

What no font has is drawn as its escape, such as `\u732b`, never as a box.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

from ed2.text import visible_line

OWN_FONT = Path(__file__).with_name("fonts") / "DejaVuSans.ttf"
SYSTEM_FONTS: tuple[str, ...] = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "DroidSansFallbackFull.ttf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "ipag.ttf",
    "NanumGothic.ttf",
    "NotoSansArabic-Regular.ttf",
    "unifont.otf",
    "unifont.ttf",
    "msyh.ttc",
    "meiryo.ttc",
    "msgothic.ttc",
    "malgun.ttf",
    "simsun.ttc",
    "segoeui.ttf",
    "arialuni.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "Arial Unicode.ttf",
    "GeezaPro.ttc",
)
"""Files of Linux, Windows and macOS with Chinese, Japanese, Korean or Arabic letters; Pillow knows their folders."""
PROBED_SIZE = 16
NOWHERE = "\U0010fffe"
"""A letter that no font has: what is drawn for it is the font's sign for a missing one."""


@dataclass(frozen=True)
class Lettering:
    """Draws text of one size, in pixels."""

    size: int

    def length(self, text: str) -> float:
        """Pixels that a text is wide."""
        return sum(_opened(font, self.size).getlength(piece) for piece, font in pieces_of(text))

    def draw(
        self, draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, ink: tuple[int, ...], *, anchor: str = "la"
    ) -> None:
        """Draw a text at a point; `anchor` is Pillow's: l or m for left or middle, then a, m or s for the height."""
        left, baseline = at
        ascent, descent = _opened(str(OWN_FONT), self.size).getmetrics()
        baseline += {"a": ascent, "m": (ascent - descent) / 2, "s": 0}[anchor[1]]
        if anchor[0] == "m":
            left -= self.length(text) / 2
        for piece, name in pieces_of(text):
            font = _opened(name, self.size)
            draw.text((left, baseline), piece, ink, font, anchor="ls")
            left += font.getlength(piece)


@lru_cache(maxsize=1000)
def pieces_of(text: str) -> tuple[tuple[str, str], ...]:
    """The text in pieces, each with the file of a font that has all its letters; the rest is escaped."""
    pieces: list[tuple[str, str]] = []
    for letter in visible_line(text):
        font = _font_with(letter)
        drawn = letter if font else letter.encode("unicode_escape").decode("ascii")
        font = font or str(OWN_FONT)
        if pieces and pieces[-1][1] == font:
            pieces[-1] = pieces[-1][0] + drawn, font
        else:
            pieces.append((drawn, font))
    return tuple(pieces)


@cache
def _font_with(letter: str) -> str:
    """The first font that has a letter; empty if none has."""
    if _has(str(OWN_FONT), letter):
        return str(OWN_FONT)
    return next((font for font in _system_fonts() if _has(font, letter)), "")


def _has(font: str, letter: str) -> bool:
    return letter.isspace() or _drawn(font, letter) != _drawn(font, NOWHERE)


@lru_cache(maxsize=5000)
def _drawn(font: str, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = _opened(font, PROBED_SIZE).getmask(letter)
    return mask.size, bytes(mask)


@cache
def _system_fonts() -> tuple[str, ...]:
    """Those of the list that this computer has; looked up for the first letter that is not in the shipped font."""
    found = []
    for name in SYSTEM_FONTS:
        try:
            found.append(str(ImageFont.truetype(name, PROBED_SIZE).path))
        except (OSError, ValueError):
            continue
    return tuple(found)


@lru_cache(maxsize=64)
def _opened(font: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font, size)
