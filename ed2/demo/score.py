"""Scores how clearly an image shows a zorg, and names its background; needs no model."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ed2.demo.checker import border_colour, nearest_colour
from ed2.demo.zorg import BELLY, BODY, EYE, FOOT, HORN, PUPIL

Mask = NDArray[np.bool_]

WORKING_SIDE = 80
GROUND_DISTANCE = 60
PART_DISTANCE = 110
MIN_FIGURE_SHARE = 0.05
PARTS = {"body": BODY, "horn": HORN, "belly": BELLY, "eye": EYE, "pupil": PUPIL, "foot": FOOT}


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
