"""Procedural captioned images: one coloured shape on a plain background, and clutter for the VAE."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
Size = tuple[int, int]

COLOURS: dict[str, Colour] = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (45, 80, 220),
    "yellow": (245, 215, 50),
    "orange": (245, 140, 30),
    "purple": (135, 50, 180),
    "pink": (250, 150, 195),
    "cyan": (60, 205, 220),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
    "gray": (130, 130, 130),
    "brown": (125, 75, 40),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "diamond")
BUCKETS: tuple[Size, ...] = ((64, 64), (80, 48), (48, 80))
RING_HOLE = 0.52


@dataclass(frozen=True)
class Scene:
    """What an image shows."""

    shape: str
    colour: str
    background: str


@dataclass(frozen=True)
class Drawing:
    """A drawn scene with its caption; pixels are uint8, (height, width, 3)."""

    pixels: NDArray[np.uint8]
    caption: str
    scene: Scene


@dataclass(frozen=True)
class Placement:
    """Where a shape is, in pixels and radians, and the words for it."""

    centre: Point
    radius: float
    rotation: float
    size_word: str = ""
    position_words: str = ""


def with_article(words: str) -> str:
    """Return the words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def jitter(colour: Colour, rng: random.Random, amount: float = 12) -> Colour:
    """Return the colour with each channel moved by up to `amount`."""
    red, green, blue = (max(0, min(255, int(value + rng.uniform(-amount, amount)))) for value in colour)
    return red, green, blue


def _circle() -> list[Point]:
    return [(math.cos(angle), math.sin(angle)) for angle in np.linspace(0, 2 * math.pi, 48)]


def _star() -> list[Point]:
    radii = [1.0 if corner % 2 == 0 else 0.42 for corner in range(10)]
    return [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(radii)]


def _heart() -> list[Point]:
    points = []
    for angle in np.linspace(0, 2 * math.pi, 60):
        x = 16 * math.sin(angle) ** 3
        y = -(13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle))
        points.append((x / 17, (y - 2.5) / 15))
    return points


def _cross() -> list[Point]:
    arm = 0.33
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    turns = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    return [(x * cos - y * sin, x * sin + y * cos) for cos, sin in turns for x, y in quarter]


def outline(shape: str, rotation: float = 0.0) -> list[Point]:
    """Return the shape's outer outline within -1..1, turned by `rotation` radians."""
    outlines: dict[str, list[Point]] = {
        "circle": _circle(),
        "ring": _circle(),
        "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        "diamond": [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)],
        "triangle": [(0, -1), (0.95, 0.8), (-0.95, 0.8)],
        "star": _star(),
        "heart": _heart(),
        "cross": _cross(),
    }
    cos, sin = math.cos(rotation), math.sin(rotation)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in outlines[shape]]


def draw_shape(
    canvas: ImageDraw.ImageDraw, shape: str, placement: Placement, *, colour: Colour, hole: Colour, scale: int
) -> None:
    """Draw a shape on a canvas that is `scale` times the image's size; `hole` fills a ring's middle."""
    (centre_x, centre_y), radius = placement.centre, placement.radius
    points = outline(shape, placement.rotation)

    def at(shrink: float) -> list[Point]:
        return [((centre_x + x * radius * shrink) * scale, (centre_y + y * radius * shrink) * scale) for x, y in points]

    canvas.polygon(at(1.0), fill=colour)
    if shape == "ring":
        canvas.polygon(at(RING_HOLE), fill=hole)


def _random_placement(rng: random.Random, size: Size) -> Placement:
    width, height = size
    side, kind = min(size), rng.random()
    if kind < 0.08:
        radius, size_word = side * rng.uniform(0.20, 0.25), "small "
    elif kind < 0.25:
        radius, size_word = side * rng.uniform(0.39, 0.44), "large "
    else:
        radius, size_word = side * rng.uniform(0.29, 0.39), ""
    room_x, room_y = max(0.0, width / 2 - radius - 2), max(0.0, height / 2 - radius - 2)
    x = width / 2 + rng.uniform(-1, 1) * room_x * 0.45
    y = height / 2 + rng.uniform(-1, 1) * room_y * 0.45
    position_words = ""
    if room_x > 6 and rng.random() < 0.1:
        side_sign = rng.choice((-1, 1))
        x = width / 2 + side_sign * room_x * rng.uniform(0.75, 1)
        position_words = " on the left" if side_sign < 0 else " on the right"
    return Placement((x, y), radius, rng.uniform(-0.15, 0.15), size_word, position_words)


def describe(scene: Scene, placement: Placement, rng: random.Random) -> str:
    """Return a caption of the scene in one of four wordings."""
    thing = f"{placement.size_word}{scene.colour} {scene.shape}"
    ground = f"on {with_article(scene.background)} background"
    wording = rng.random()
    if wording < 0.7:
        return f"{with_article(thing)}{placement.position_words} {ground}"
    if wording < 0.8:
        return f"{thing}{placement.position_words}, {scene.background} background"
    if wording < 0.9:
        # "picture": the shipped base was trained with these captions.
        return f"a picture of {with_article(thing)}{placement.position_words} {ground}"
    return f"{with_article(thing)}{placement.position_words}"


def random_scene(rng: random.Random) -> Scene:
    """Return a scene whose shape and background differ in colour."""
    colour = rng.choice(list(COLOURS))
    return Scene(rng.choice(SHAPES), colour, rng.choice([name for name in COLOURS if name != colour]))


def draw_image(rng: random.Random, size: Size = (64, 64)) -> Drawing:
    """Draw a random scene of (width, height) `size`, anti-aliased by drawing it four times as large."""
    scale = 4
    scene, placement = random_scene(rng), _random_placement(rng, size)
    background = jitter(COLOURS[scene.background], rng)
    image = Image.new("RGB", (size[0] * scale, size[1] * scale), background)
    colour = jitter(COLOURS[scene.colour], rng)
    draw_shape(ImageDraw.Draw(image), scene.shape, placement, colour=colour, hole=background, scale=scale)
    pixels = np.asarray(image.resize(size, Image.Resampling.BOX))
    return Drawing(pixels, describe(scene, placement, rng), scene)


def caption_and_scene(rng: random.Random) -> tuple[str, Scene]:
    """Return a caption with its scene, without drawing it."""
    scene = random_scene(rng)
    return describe(scene, _random_placement(rng, (80, 48)), rng), scene


def _random_colour(rng: random.Random) -> Colour:
    if rng.random() < 0.5:
        return rng.choice(list(COLOURS.values()))
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _random_ground(rng: random.Random, size: Size) -> Image.Image:
    """Return a plain, graded or softly blotched background."""
    width, height = size
    first, last = (np.array(_random_colour(rng), np.float32) for _ in range(2))
    if rng.random() < 0.4:
        return Image.new("RGB", size, tuple(int(value) for value in first))
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    ramp = columns * math.cos(angle) + rows * math.sin(angle)
    ramp = ((ramp - ramp.min()) / (np.ptp(ramp) + 1e-6))[..., None]
    pixels = first * (1 - ramp) + last * ramp
    if rng.random() < 0.4:
        cells = rng.choice((3, 5, 8))
        blotches = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        soft = np.asarray(Image.fromarray(blotches).resize(size, Image.Resampling.BICUBIC), np.float32)
        share = rng.uniform(0.2, 0.8)
        pixels = pixels * (1 - share) + soft * share
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _draw_nested_ellipses(canvas: ImageDraw.ImageDraw, rng: random.Random, centre: Point, radius: float) -> None:
    x, y = centre
    flatness = rng.uniform(0.5, 1.3)
    for _ in range(rng.randint(1, 3)):
        box = (x - radius, y - radius * flatness, x + radius, y + radius * flatness)
        canvas.ellipse(box, fill=_random_colour(rng))
        x, y = x + rng.uniform(-0.2, 0.2) * radius, y + rng.uniform(-0.2, 0.2) * radius
        radius *= rng.uniform(0.35, 0.7)


def _draw_stroke(canvas: ImageDraw.ImageDraw, rng: random.Random, centre: Point, radius: float) -> None:
    x, y = centre
    if rng.random() < 0.6:
        end = (x + rng.uniform(-2, 2) * radius, y + rng.uniform(-2, 2) * radius)
        canvas.line([centre, end], fill=_random_colour(rng), width=rng.randint(2, 10))
        return
    start = rng.uniform(0, 360)
    box = (x - radius, y - radius, x + radius, y + radius)
    canvas.arc(box, start, start + rng.uniform(60, 300), fill=_random_colour(rng), width=rng.randint(2, 8))


def draw_clutter(rng: random.Random) -> NDArray[np.uint8]:
    """Draw many overlapping shapes, nested ellipses and strokes on 64 x 64 pixels: images without a caption."""
    size, scale = (64, 64), 2
    large = (size[0] * scale, size[1] * scale)
    image = _random_ground(rng, large)
    canvas = ImageDraw.Draw(image)
    ranges: Sequence[tuple[float, float]] = ((2, 5), (4, 12), (8, 26))
    for _ in range(rng.randint(1, 12)):
        centre = (rng.uniform(0, large[0]), rng.uniform(0, large[1]))
        radius, kind = rng.uniform(*rng.choice(ranges)) * scale, rng.random()
        if kind < 0.4:
            placement = Placement(centre, radius, rng.uniform(0, 2 * math.pi))
            colour = _random_colour(rng)
            draw_shape(canvas, rng.choice(SHAPES), placement, colour=colour, hole=_random_colour(rng), scale=1)
        elif kind < 0.75:
            _draw_nested_ellipses(canvas, rng, centre, radius)
        else:
            _draw_stroke(canvas, rng, centre, radius)
    return np.asarray(image.resize(size, Image.Resampling.BOX))
