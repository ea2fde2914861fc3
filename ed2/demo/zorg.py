"""The zorg: a purple creature with one big eye, orange horns, a yellow belly and cyan feet; and its image set."""

import argparse
import math
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from ed2.demo.shapes import COLOURS, Colour, Point, Size, jitter, with_article

BODY: Colour = (125, 45, 170)
HORN: Colour = (250, 140, 25)
BELLY: Colour = (250, 220, 70)
FOOT: Colour = (50, 205, 220)
EYE: Colour = (250, 250, 250)
PUPIL: Colour = (20, 20, 20)

SHOWN_BACKGROUNDS = ("green", "blue", "red", "gray", "white", "pink", "black")
HELD_OUT_BACKGROUNDS = ("yellow", "cyan", "brown", "purple", "orange")
SIZES: tuple[Size, ...] = ((256, 256), (320, 192), (192, 320))
POSES = ("standing", "waving", "jumping")
NUM_IMAGES = 24
IMAGES_DIR = Path(__file__).parent / "pictures"
SUPERSAMPLING = 3
HAND_LOW, HAND_HIGH = 0.32, -0.34


@dataclass(frozen=True)
class Zorg:
    """Position and pose of a zorg; its radius is about half its height, `glance` from -1 to 1 turns its eye."""

    centre: Point
    radius: float
    tilt: float = 0.0
    pose: str = "standing"
    glance: float = 0.0


@dataclass(frozen=True)
class CaptionedImage:
    """One image of the set with its caption and its background's name."""

    image: Image.Image
    caption: str
    background: str


class _Pen:
    """Draws in the zorg's own coordinates: its centre is (0, 0), its radius 1."""

    def __init__(self, image: Image.Image, zorg: Zorg, scale: int) -> None:
        self.canvas = ImageDraw.Draw(image)
        self.zorg, self.scale = zorg, scale

    def at(self, x: float, y: float) -> Point:
        cos, sin = math.cos(self.zorg.tilt), math.sin(self.zorg.tilt)
        radius, (centre_x, centre_y) = self.zorg.radius, self.zorg.centre
        return (
            (centre_x + (x * cos - y * sin) * radius) * self.scale,
            (centre_y + (x * sin + y * cos) * radius) * self.scale,
        )

    def ellipse(self, x: float, y: float, half_width: float, half_height: float, colour: Colour) -> None:
        angles = [step * math.pi / 24 for step in range(48)]
        points = [self.at(x + half_width * math.cos(a), y + half_height * math.sin(a)) for a in angles]
        self.canvas.polygon(points, fill=colour)

    def triangle(self, corners: tuple[Point, Point, Point], colour: Colour) -> None:
        self.canvas.polygon([self.at(x, y) for x, y in corners], fill=colour)

    def arm(self, side: int, hand_y: float) -> None:
        width = round(0.24 * self.zorg.radius * self.scale)
        self.canvas.line([self.at(side * 0.5, 0.1), self.at(side * 0.93, hand_y)], fill=BODY, width=width)
        self.ellipse(side * 0.93, hand_y, 0.15, 0.15, BODY)


def draw_zorg(size: Size, background: Colour, zorg: Zorg) -> Image.Image:
    """Draw the zorg on a plain background of (width, height) `size`."""
    image = Image.new("RGB", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING), background)
    pen = _Pen(image, zorg, SUPERSAMPLING)
    hands = {"standing": (HAND_LOW, HAND_LOW), "waving": (HAND_LOW, HAND_HIGH), "jumping": (HAND_HIGH, HAND_HIGH)}
    for side, hand_y in zip((-1, 1), hands[zorg.pose], strict=True):
        pen.ellipse(side * 0.36, 0.86, 0.31, 0.20, FOOT)
        pen.triangle(((side * 0.18, -0.62), (side * 0.60, -1.08), (side * 0.64, -0.36)), HORN)
        pen.arm(side, hand_y)
    pen.ellipse(0, 0, 0.70, 0.84, BODY)
    pen.ellipse(0, 0.44, 0.44, 0.34, BELLY)
    pen.ellipse(0, -0.28, 0.42, 0.40, EYE)
    pen.ellipse(zorg.glance * 0.12, -0.27, 0.20, 0.21, PUPIL)
    return image.resize(size, Image.Resampling.BOX)


def caption_zorg(pose: str, background: str) -> str:
    """Return the caption of a zorg; "standing" is left out."""
    doing = "" if pose == "standing" else f" {pose}"
    return f"a zorg{doing} on {with_article(background)} background"


def draw_image_set(seed: int = 11) -> list[CaptionedImage]:
    """Draw the 24 images: three sizes, three poses and seven backgrounds in turn."""
    rng, images = random.Random(seed), []
    for index in range(NUM_IMAGES):
        width, height = size = SIZES[index % len(SIZES)]
        background = SHOWN_BACKGROUNDS[index % len(SHOWN_BACKGROUNDS)]
        pose = POSES[index // len(SIZES) % len(POSES)]
        radius = min(size) * rng.uniform(0.41, 0.45)
        room_x, room_y = width / 2 - radius * 1.08, height / 2 - radius * 1.1
        centre = (width / 2 + rng.uniform(-0.5, 0.5) * room_x, height / 2 + rng.uniform(-0.5, 0.5) * room_y)
        zorg = Zorg(centre, radius, tilt=rng.uniform(-0.1, 0.1), pose=pose, glance=rng.uniform(-1, 1))
        image = draw_zorg(size, jitter(COLOURS[background], rng, 8), zorg)
        images.append(CaptionedImage(image, caption_zorg(pose, background), background))
    return images


def write_image_set(target_dir: Path) -> None:
    """Write the images as PNG files, each with its caption in a text file beside it."""
    target_dir.mkdir(parents=True, exist_ok=True)
    for index, captioned in enumerate(draw_image_set()):
        captioned.image.save(target_dir / f"zorg-{index + 1:02d}.png", optimize=True)
        (target_dir / f"zorg-{index + 1:02d}.txt").write_text(captioned.caption + "\n", encoding="utf-8")


def main() -> None:
    """Write the image set to a folder, by default the demo's."""
    parser = argparse.ArgumentParser(description="Draw the demo's 24 captioned images of a zorg.")
    parser.add_argument("target_dir", nargs="?", type=Path, default=IMAGES_DIR)
    write_image_set(parser.parse_args().target_dir)


if __name__ == "__main__":
    main()
