"""Reading picture files: their size, their pixels, and in plain words what is wrong with those that cannot be read."""

from dataclasses import dataclass
from pathlib import Path

import imagesize
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from ed2.data.buckets import Size
from ed2.data.damage import describe
from ed2.errors import Ed2Error, Problem

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""Pillow's names. Naming them keeps Pillow from starting Ghostscript on an EPS that is called .png."""
EXTENSIONS = frozenset(("jpg", "jpeg", "png", "bmp", "webp", "jfif", "gif", "tif", "tiff", "avif"))
MAX_PIXELS = 100_000_000
"""More than this is taken for a file made to fill the memory: 100 MP are 300 MB once decoded."""
JPEG_SHRINKS = (1, 2, 4, 8)
"""How many times smaller a JPEG can be decoded at once; each side is rounded up to a whole pixel."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""


class ImageError(Ed2Error):
    """A picture that cannot be used; `lasting` says that it stays so until the file is changed."""

    def __init__(self, what: str, fix: str, *, lasting: bool = True) -> None:
        self.lasting = lasting
        super().__init__(what, fix=fix)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What reading a whole picture has shown; `size` is (0, 0) where there is a problem."""

    size: Size
    problem: Problem | None = None
    animated: bool = False
    lasting: bool = True
    """Whether it holds as long as the file is not changed."""


def header_size(path: Path) -> Size | None:
    """Return the upright size that a file's header claims, without reading its pixels; None where it claims none."""
    try:
        width, height = imagesize.get(path)
        if width > 0 and height > 0:
            return width, height
        with Image.open(path, formats=FORMATS) as image:
            return _turned(image.size, _orientation(image))
    except Exception:  # what a broken header may raise is not documented by either library
        return None


def decode(path: Path, at_least: Size | None = None) -> Image.Image:
    """Return a picture in RGB and upright, from all of its file; the first frame of an animation.

    Transparency is laid on white, and 16-bit grey is scaled to 8 bits.

    Args:
        path: the file.
        at_least: a size that is enough; a larger JPEG may then come 2, 4 or 8 times smaller, which is much faster.

    Raises:
        ImageError: the file is no picture, is damaged, or is too large.
    """
    return _read(path, at_least)[0]


def check_image(path: Path) -> ImageFacts:
    """Return the upright size of a picture by reading all of it, or what is wrong with it."""
    try:
        image, animated = _read(path, None)
    except ImageError as error:
        return ImageFacts((0, 0), Problem(str(path), error.what, error.fix), lasting=error.lasting)
    return ImageFacts(image.size, animated=animated)


def _read(path: Path, at_least: Size | None) -> tuple[Image.Image, bool]:
    """Return the picture, and whether there are more frames than the one."""
    # Pillow's own limit is one for the whole process: always the same number, so that threads cannot disagree on it.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        _refuse_too_large(header_size(path))
        with Image.open(path, formats=FORMATS) as image:
            _refuse_too_large(image.size)
            animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            return _decoded(image, at_least), animated
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large("many") from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more on bad files
        from_system = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
        what, fix = describe(path, error)
        raise ImageError(what, fix, lasting=not from_system) from error


def _refuse_too_large(size: Size | None) -> None:
    if size and size[0] * size[1] > MAX_PIXELS:
        raise _too_large(f"{size[0]:,} x {size[1]:,}")


def _too_large(pixels: str) -> ImageError:
    limit = f"{MAX_PIXELS // 1_000_000} million"
    return ImageError(f"it has too many pixels ({pixels}; at most {limit} are read).", "Make it smaller.")


def _decoded(image: ImageFile, at_least: Size | None) -> Image.Image:
    if at_least:
        image.draft(None, _turned(at_least, _orientation(image)))
    image.load()
    # After loading: a PNG may hold its orientation behind the pixels, and Pillow turns TIFF and AVIF by itself.
    turn = _TURNS.get(_orientation(image))
    upright = _as_rgb(image)
    return upright.transpose(turn) if turn is not None else upright


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none or it cannot be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _turned(size: Size, orientation: int) -> Size:
    return (size[1], size[0]) if 5 <= orientation <= 8 else size


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_scaled_grey(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        upon_white = Image.new("RGB", image.size, "white")
        upon_white.paste(with_alpha, mask=with_alpha.getchannel("A"))
        return upon_white
    return image.convert("RGB")


def _scaled_grey(grey: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale deep grey to 8 bits by the range that its numbers are meant to have; an odd range by its ends."""
    values = np.nan_to_num(grey.astype(np.float32))
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1 and np.issubdtype(grey.dtype, np.floating):
        high, low = 1.0, 0.0
    elif low >= 0 and high <= 65535 and np.issubdtype(grey.dtype, np.integer):
        high, low = 65535.0, 0.0
    elif low >= 0 and high <= 255:
        high, low = 255.0, 0.0
    scaled: NDArray[np.uint8] = np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    return scaled
