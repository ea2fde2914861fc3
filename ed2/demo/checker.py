"""Says what an image shows, by itself: the shape, its colour and the background's, or how clearly a zorg."""

from collections import deque
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ed2.demo.shapes import COLOURS, SHAPES, Placement, Scene, draw_shape
from ed2.demo.zorg import BELLY, BODY, EYE, FOOT, HORN, PUPIL

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

TEMPLATE_SIDE = 32
MIN_CONTRAST = 40
MIN_AREA = 20
WORKING_SIDE = 80
GROUND_DISTANCE = 60
PART_DISTANCE = 110
MIN_FIGURE_SHARE = 0.05
PARTS = {"body": BODY, "horn": HORN, "belly": BELLY, "eye": EYE, "pupil": PUPIL, "foot": FOOT}


def nearest_colour(colour: NDArray[np.floating]) -> str:
    """Return the name of the known colour nearest to an RGB value."""
    distances = {name: float(np.square(colour - np.array(value)).sum()) for name, value in COLOURS.items()}
    return min(distances, key=distances.__getitem__)


def border_colour(pixels: Pixels) -> NDArray[np.floating]:
    """Return the median RGB value of the image's outermost two rows and columns."""
    edges = (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:])
    return np.median(np.concatenate([edge.reshape(-1, 3) for edge in edges]), axis=0)


def largest_region(mask: Mask) -> Mask:
    """Return the mask's largest 4-connected region."""
    left, best = mask.copy(), list[tuple[int, int]]()
    for row, column in zip(*np.nonzero(mask), strict=True):
        if left[row, column]:
            region = _take_region(left, int(row), int(column))
            best = max(best, region, key=len)
    result = np.zeros_like(mask)
    for row, column in best:
        result[row, column] = True
    return result


def _take_region(left: Mask, row: int, column: int) -> list[tuple[int, int]]:
    """Return the points connected to one, and clear them in `left`."""
    left[row, column] = False
    queue, region = deque([(row, column)]), []
    while queue:
        y, x = queue.popleft()
        region.append((y, x))
        for next_y, next_x in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            if 0 <= next_y < left.shape[0] and 0 <= next_x < left.shape[1] and left[next_y, next_x]:
                left[next_y, next_x] = False
                queue.append((next_y, next_x))
    return region


def normalize_mask(mask: Mask) -> Mask | None:
    """Return the mask's content fitted into a 32x32 square, or None if it is too small."""
    rows, columns = np.nonzero(mask)
    if len(rows) < MIN_AREA:
        return None
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    side = max(bottom - top, right - left)
    step = side / TEMPLATE_SIDE
    origin_x, origin_y = (left + right - side) / 2, (top + bottom - side) / 2
    fitted = Image.fromarray(mask.astype(np.uint8) * 255).transform(
        (TEMPLATE_SIDE, TEMPLATE_SIDE),
        Image.Transform.AFFINE,
        (step, 0, origin_x, 0, step, origin_y),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(fitted) > 127


@cache
def _templates() -> tuple[tuple[str, Mask], ...]:
    templates = []
    for shape in SHAPES:
        for rotation in (-0.2, -0.1, 0.0, 0.1, 0.2):
            image = Image.new("RGB", (256, 256))
            placement = Placement((32, 32), 24, rotation)
            white, black = (255, 255, 255), (0, 0, 0)
            draw_shape(ImageDraw.Draw(image), shape, placement, colour=white, hole=black, scale=4)
            mask = normalize_mask(np.asarray(image.resize((64, 64), Image.Resampling.BOX))[..., 0] > 127)
            if mask is not None:
                templates.append((shape, mask))
    return tuple(templates)


def match_shape(mask: Mask) -> str | None:
    """Return the shape whose template overlaps the mask best, or None if the mask is too small."""
    fitted = normalize_mask(mask)
    if fitted is None:
        return None
    overlaps = [((fitted & template).sum() / (fitted | template).sum(), shape) for shape, template in _templates()]
    return max(overlaps)[1]


def recognize(pixels: Pixels) -> Scene:
    """Return what a uint8 (height, width, 3) image shows; shape and colour are "" if nothing stands out."""
    background = border_colour(pixels)
    distance = np.sqrt(np.square(pixels - background).sum(-1))
    if distance.max() < MIN_CONTRAST:
        return Scene("", "", nearest_colour(background))
    strong = np.percentile(distance, 98)
    region = largest_region(distance > max(20, strong * 0.5))
    core = region & (distance > strong * 0.75)
    colour = np.median(pixels[core if core.sum() > 8 else region], axis=0)
    return Scene(match_shape(region) or "", nearest_colour(colour), nearest_colour(background))


def share_right(images: list[Pixels], scenes: list[Scene]) -> dict[str, float]:
    """Return the shares of images whose shape, colour, background, and all three are right."""
    pairs = [(recognize(pixels), scene) for pixels, scene in zip(images, scenes, strict=True)]
    shares = {
        "shape": [seen.shape == scene.shape for seen, scene in pairs],
        "colour": [seen.colour == scene.colour for seen, scene in pairs],
        "background": [seen.background == scene.background for seen, scene in pairs],
        "all": [seen == scene for seen, scene in pairs],
    }
    return {name: round(sum(right) / len(pairs), 3) for name, right in shares.items()}


def _to_pixels(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image as uint8 RGB, shrunk to at most 80 pixels a side."""
    rgb = image if isinstance(image, Image.Image) else Image.fromarray(image)
    rgb = rgb.convert("RGB")
    rgb.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    return np.asarray(rgb)


def _ramp(value: float, low: float, high: float) -> float:
    """Return 0 up to `low`, 1 from `high`, and a straight line between."""
    return float(np.clip((value - low) / (high - low), 0.0, 1.0))


def _figure(pixels: NDArray[np.uint8]) -> Mask:
    """Return everything but the background, which is what has the border's colour and touches it."""
    distance = np.sqrt(np.square(pixels - border_colour(pixels)).sum(-1))
    alike = distance < GROUND_DISTANCE
    ground = alike.copy()
    ground[1:-1, 1:-1] = False
    while True:
        grown = np.pad(ground, 1)
        grown = (ground | grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:]) & alike
        if (grown == ground).all():
            return ~ground
        ground = grown


def _parts(pixels: NDArray[np.uint8], figure: Mask) -> dict[str, Mask]:
    """Return, for each part of a zorg, the figure's pixels nearest to its colour."""
    colours = np.array(list(PARTS.values()), np.float64)
    distances = np.sqrt(np.square(pixels[..., None, :] - colours).sum(-1))
    nearest = np.where(figure & (distances.min(-1) < PART_DISTANCE), distances.argmin(-1), len(PARTS))
    return {name: nearest == index for index, name in enumerate(PARTS)}


def _middle_row(mask: Mask) -> float:
    """Return the mean row of a non-empty mask."""
    return float(np.nonzero(mask)[0].mean())


def concept_score(image: Image.Image | NDArray[np.uint8]) -> float:
    """Return how clearly an image shows a zorg, from 0 to 1.

    A purple body with a yellow belly below a white, dark-centred eye gives up to one half; orange horns above the eye
    and cyan feet below it add up to a quarter each. A purple circle, or any other plain shape, gives about 0.
    """
    pixels = _to_pixels(image)
    figure = _figure(pixels)
    area = float(figure.sum())
    if area < MIN_FIGURE_SHARE * figure.size:
        return 0.0
    parts = _parts(pixels, figure)
    share = {name: mask.sum() / area for name, mask in parts.items()}
    if not parts["eye"].any():
        return 0.0
    eye_row, rows = _middle_row(parts["eye"]), np.arange(len(pixels))[:, None]
    height = max(1, int(np.ptp(np.nonzero(figure)[0])))
    drop = (_middle_row(parts["belly"]) - eye_row) / height if parts["belly"].any() else 0.0
    eye = _ramp(share["eye"], 0.01, 0.06) * (0.6 + 0.4 * _ramp(share["pupil"], 0.005, 0.025))
    belly = _ramp(share["belly"], 0.03, 0.10) * _ramp(drop, 0.08, 0.20)
    horns = _ramp((parts["horn"] & (rows < eye_row)).sum() / area, 0.01, 0.05)
    feet = _ramp((parts["foot"] & (rows > eye_row)).sum() / area, 0.01, 0.06)
    body = _ramp(share["body"], 0.08, 0.25)
    return body * (eye * belly) ** 0.5 * (0.5 + 0.25 * horns + 0.25 * feet)


def background_colour(image: Image.Image | NDArray[np.uint8]) -> str:
    """Return the name of the colour nearest to the median of the image's border."""
    return nearest_colour(border_colour(_to_pixels(image)))
