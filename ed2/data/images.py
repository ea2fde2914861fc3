"""Reads image files: their size, their pixels, and what is wrong with those that cannot be read."""

import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import imagesize
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from ed2.data.buckets import Size
from ed2.data.diagnosis import diagnose
from ed2.disk import sha256_of
from ed2.errors import Ed2Error, Problem

_T = TypeVar("_T")

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""Pillow's names. Naming them keeps Pillow from starting Ghostscript on an EPS that is called .png."""
EXTENSIONS = frozenset(("jpg", "jpeg", "png", "bmp", "webp", "jfif", "gif", "tif", "tiff", "avif"))
MAX_PIXELS = 100_000_000
"""More is taken for a file made to exhaust memory: 100 MP are 300 MB once decoded."""
WHITE = "white"
MAX_FILE_BYTES = 1 << 29
"""Some formats are read into memory before anything is known about them; 100 MP take 400 MB uncompressed."""
LARGE_PIXELS = 25_000_000
"""Larger images are read one at a time, however many threads there are: each takes up to 12 bytes per pixel."""
DIGEST_LENGTH = 32
"""In hex digits, 128 bits: no two images share one by chance."""
_SHRINKING = ("JPEG", "MPO")
"""Formats that can be decoded smaller. `draft` is not called for others: it would load a PNG to find its orientation,
and hide an error in it."""
JPEG_SHRINKS = (1, 2, 4, 8)
"""Factors by which a JPEG can be decoded smaller; each side is rounded up to a whole pixel."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Turns an image upright, by its EXIF orientation."""

_PLAIN_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I", "F"))
"""Modes whose conversion to RGB cannot fail, so that a check may skip it."""
_LARGE = threading.Lock()
_BAND_ROWS = 256
"""Rows of 16-bit grey that are converted at once, to limit the memory for floats."""


class ImageError(Ed2Error):
    """An image that cannot be used; `lasting` means until the file changes."""

    def __init__(self, what: str, fix: str, *, lasting: bool = True) -> None:
        self.lasting = lasting
        super().__init__(what, fix=fix)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What reading a whole image has shown; `size` is (0, 0) if there is a problem."""

    size: Size
    problem: Problem | None = None
    animated: bool = False
    digest: str = ""
    """Hash of the file's bytes, the same for a copy of any name and time; empty if only the header was read."""
    lasting: bool = True
    """Whether this is true until the file changes."""


def header_size(path: Path) -> Size | None:
    """Return the upright size in a file's header, without reading its pixels; None if there is none."""
    try:
        _require_file(path)
        width, height = imagesize.get(path)
        if width > 0 and height > 0:
            return width, height
        with Image.open(path, formats=FORMATS) as image:
            return _upright(image.size, _orientation(image))
    except Exception:  # neither library documents what a broken header may raise
        return None


def decode(path: Path, at_least: Size | None = None, background: str = WHITE) -> Image.Image:
    """Return an image in RGB and upright, by reading its whole file; the first frame of an animation.

    Transparent images are placed on a background, and 16-bit grey is scaled to 8 bits.

    Args:
        path: the file.
        at_least: a sufficient size; a larger JPEG may then be decoded 2, 4 or 8 times smaller, which is much faster.
        background: a colour, as #rrggbb or a name that Pillow knows.

    Raises:
        ImageError: the file is not an image, is damaged, or is too large.
    """
    return _read(path, lambda image: _decoded(image, at_least, background))


def check_image(path: Path) -> ImageFacts:
    """Return the upright size of an image by reading all of it, or what is wrong with it.

    A JPEG is decoded eight times smaller, in about half the time: every byte is still read, and damage is still found.
    """
    try:
        return _read(path, lambda image: replace(_inspect(image), digest=sha256_of(path)[:DIGEST_LENGTH]))
    except ImageError as error:
        return ImageFacts((0, 0), Problem(str(path), error.what, error.fix), lasting=error.lasting)


def read_header_facts(path: Path) -> ImageFacts:
    """Return the upright size in an image's header; reads all of an image whose header makes no sense."""
    size = header_size(path)
    if size is None or size[0] * size[1] > MAX_PIXELS:
        return check_image(path)
    return ImageFacts(size)


def ignore_pillow_warnings() -> None:
    """Keep Pillow's warnings, such as of a broken EXIF block, off the console; what matters becomes a problem."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _read(path: Path, use: Callable[[ImageFile], _T]) -> _T:
    """Return the result of `use` for the opened image."""
    # Pillow's own limit applies to the whole process: always the same number, so that threads cannot disagree.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        _require_file(path)
        size = header_size(path)
        _require_small_enough(size)
        with _alone_if_large(size), Image.open(path, formats=FORMATS) as image:
            _require_small_enough(image.size)
            return use(image)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(None) from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more on bad files
        from_system = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
        what, fix = diagnose(path, error)
        raise ImageError(what, fix, lasting=not from_system) from error


def _require_file(path: Path) -> None:
    """Refuse pipes and devices, which would block, and files that are too large to read."""
    status = path.stat()
    if stat.S_ISREG(status.st_mode):
        if status.st_size > MAX_FILE_BYTES:
            what = f"the file is too large ({status.st_size >> 20:,} MB; the limit is {MAX_FILE_BYTES >> 20} MB)."
            raise ImageError(what, "Save it smaller.")
    elif not stat.S_ISDIR(status.st_mode):  # for a folder the system raises its own error
        raise ImageError("this is not a file.", "Delete or rename it.", lasting=False)


def _alone_if_large(size: Size | None) -> AbstractContextManager[object]:
    return _LARGE if size and size[0] * size[1] > LARGE_PIXELS else nullcontext()


def _inspect(image: ImageFile) -> ImageFacts:
    """Return the facts of an image by reading all of it."""
    animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    before = image.size if image.format in _SHRINKING else None
    if before:
        image.draft(None, (1, 1))
    image.load()
    if image.mode not in _PLAIN_MODES:
        _as_rgb(image, WHITE)
    return ImageFacts(_upright(before or image.size, _orientation(image)), animated=animated)


def _require_small_enough(size: Size | None) -> None:
    if size and size[0] * size[1] > MAX_PIXELS:
        raise _too_large(size)


def _too_large(size: Size | None) -> ImageError:
    pixels = f"{size[0]:,} x {size[1]:,}; " if size else ""
    limit = f"{MAX_PIXELS // 1_000_000} million"
    return ImageError(f"it has too many pixels ({pixels}the limit is {limit}).", "Make it smaller.")


def _decoded(image: ImageFile, at_least: Size | None, background: str) -> Image.Image:
    if at_least and image.format in _SHRINKING:
        image.draft(None, _upright(at_least, _orientation(image)))
    image.load()
    # After loading: a PNG may store its orientation after the pixels, and Pillow turns TIFF and AVIF by itself.
    turn = _TURNS.get(_orientation(image))
    upright = _as_rgb(image, background)
    return upright.transpose(turn) if turn is not None else upright


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 if there is none or it cannot be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _upright(size: Size, orientation: int) -> Size:
    return (size[1], size[0]) if 5 <= orientation <= 8 else size


def _as_rgb(image: Image.Image, background: str) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_scaled_grey(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        with_alpha = image if image.mode == "RGBA" else image.convert("RGBA")
        opaque = Image.new("RGB", image.size, background)
        opaque.paste(with_alpha, mask=with_alpha.getchannel("A"))
        return opaque
    return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy an RGB image


def _scaled_grey(grey: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale grey of more than 8 bits by the range that its numbers should have; an unusual range by its limits."""
    low, high = _grey_range(grey)
    scale = 255 / max(high - low, 1e-12)
    bands = [np.rint((np.nan_to_num(band, nan=low) - low) * scale).astype(np.uint8) for band in _bands(grey)]
    return np.concatenate(bands)


def _grey_range(grey: NDArray[np.generic]) -> tuple[float, float]:
    """Return the numbers that stand for black and white."""
    lows: list[float] = []
    highs: list[float] = []
    for band in _bands(grey):
        numbers = band[~np.isnan(band)]
        if numbers.size:
            lows.append(float(numbers.min()))
            highs.append(float(numbers.max()))
    low, high = min(lows, default=0.0), max(highs, default=0.0)
    if low < 0:
        return low, high
    if high <= 1 and np.issubdtype(grey.dtype, np.floating):
        return 0.0, 1.0
    if high <= 65535 and np.issubdtype(grey.dtype, np.integer):
        return 0.0, 65535.0
    return (0.0, 255.0) if high <= 255 else (low, high)


def _bands(grey: NDArray[np.generic]) -> Iterator[NDArray[np.float32]]:
    """Yield the rows of an image a few at a time, clipped so that no difference of two numbers is infinite."""
    for top in range(0, len(grey), _BAND_ROWS):
        yield np.clip(grey[top : top + _BAND_ROWS].astype(np.float32), -1e38, 1e38)
