"""Reading image files: their size, their pixels, and in plain words what is wrong with those that cannot be read."""

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
from ed2.data.damage import describe
from ed2.disk import sha256_of
from ed2.errors import Ed2Error, Problem

_T = TypeVar("_T")

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""Pillow's names. Naming them keeps Pillow from starting Ghostscript on an EPS that is called .png."""
EXTENSIONS = frozenset(("jpg", "jpeg", "png", "bmp", "webp", "jfif", "gif", "tif", "tiff", "avif"))
MAX_PIXELS = 100_000_000
"""More than this is taken for a file made to fill the memory: 100 MP are 300 MB once decoded."""
WHITE = "white"
MAX_FILE_BYTES = 1 << 29
"""Some formats are read into the memory before anything is known of them; 100 MP as they are take 400 MB."""
LARGE_PIXELS = 25_000_000
"""Larger images are read one at a time, however many threads there are: each takes up to 12 bytes a pixel."""
DIGEST_LETTERS = 32
"""128 bits: no two images have the same by chance."""
_SHRINKING = ("JPEG", "MPO")
"""Formats that can be decoded smaller. No others are asked to: a PNG is loaded to find its orientation, and an error in
that would be lost."""
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
"""What makes an image upright, by its EXIF orientation."""

_PLAIN_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I", "F"))
"""Whose conversion to RGB cannot fail, so that a check may leave it out."""
_LARGE = threading.Lock()
_BAND_ROWS = 256
"""Rows of deep grey that are converted at once, to keep its floating numbers few."""


class ImageError(Ed2Error):
    """An image that cannot be used; `lasting` says that it stays so until the file is changed."""

    def __init__(self, what: str, fix: str, *, lasting: bool = True) -> None:
        self.lasting = lasting
        super().__init__(what, fix=fix)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What reading a whole image has shown; `size` is (0, 0) where there is a problem."""

    size: Size
    problem: Problem | None = None
    animated: bool = False
    digest: str = ""
    """Tells its file's bytes from all others, whatever a copy's name and time; empty where only its header was read."""
    lasting: bool = True
    """Whether it holds as long as the file is not changed."""


def header_size(path: Path) -> Size | None:
    """Return the upright size that a file's header claims, without reading its pixels; None where it claims none."""
    try:
        _require_file(path)
        width, height = imagesize.get(path)
        if width > 0 and height > 0:
            return width, height
        with Image.open(path, formats=FORMATS) as image:
            return _turned(image.size, _orientation(image))
    except Exception:  # what a broken header may raise is not documented by either library
        return None


def decode(path: Path, at_least: Size | None = None, background: str = WHITE) -> Image.Image:
    """Return an image in RGB and upright, from all of its file; the first frame of an animation.

    What is transparent lies on a background, and 16-bit grey is scaled to 8 bits.

    Args:
        path: the file.
        at_least: a size that is enough; a larger JPEG may then come 2, 4 or 8 times smaller, which is much faster.
        background: what shows through transparency, as #rrggbb or a name that Pillow knows.

    Raises:
        ImageError: the file is no image, is damaged, or is too large.
    """
    return _read(path, lambda image: _decoded(image, at_least, background))


def check_image(path: Path) -> ImageFacts:
    """Return the upright size of an image by reading all of it, or what is wrong with it.

    A JPEG is decoded eight times smaller: every byte of it is still read, and what is damaged fails in the same way,
    in about half the time.
    """
    try:
        return _read(path, lambda image: replace(_looked_at(image), digest=sha256_of(path)[:DIGEST_LETTERS]))
    except ImageError as error:
        return ImageFacts((0, 0), Problem(str(path), error.what, error.fix), lasting=error.lasting)


def sized_by_header(path: Path) -> ImageFacts:
    """Return the upright size of an image as its header claims it; reads all of one whose header makes no sense."""
    size = header_size(path)
    return ImageFacts(size) if size and size[0] * size[1] <= MAX_PIXELS else check_image(path)


def ignore_pillow_warnings() -> None:
    """Keep Pillow's remarks, such as on a broken EXIF block, off the console; what matters is told as a problem."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _read(path: Path, use: Callable[[ImageFile], _T]) -> _T:
    """Return what `use` makes of the opened image."""
    # Pillow's own limit is one for the whole process: always the same number, so that threads cannot disagree on it.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        _require_file(path)
        size = header_size(path)
        _refuse_too_large(size)
        with _alone_if_large(size), Image.open(path, formats=FORMATS) as image:
            _refuse_too_large(image.size)
            return use(image)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(None) from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more on bad files
        from_system = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
        what, fix = describe(path, error)
        raise ImageError(what, fix, lasting=not from_system) from error


def _require_file(path: Path) -> None:
    """Refuse what is no file, since a pipe would be waited for, and a file too large to be read."""
    status = path.stat()
    if stat.S_ISREG(status.st_mode) and status.st_size > MAX_FILE_BYTES:
        what = f"the file is too large ({status.st_size >> 20:,} MB; at most {MAX_FILE_BYTES >> 20} MB are read)."
        raise ImageError(what, "Save it smaller.")
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # of a folder the system tells itself
        raise ImageError("this is not a file.", "Delete or rename it.", lasting=False)


def _alone_if_large(size: Size | None) -> AbstractContextManager[object]:
    return _LARGE if size and size[0] * size[1] > LARGE_PIXELS else nullcontext()


def _looked_at(image: ImageFile) -> ImageFacts:
    """Read all of an image for what there is to know of it."""
    animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    before = image.size if image.format in _SHRINKING else None
    if before:
        image.draft(None, (1, 1))
    image.load()
    if image.mode not in _PLAIN_MODES:
        _as_rgb(image, WHITE)
    return ImageFacts(_turned(before or image.size, _orientation(image)), animated=animated)


def _refuse_too_large(size: Size | None) -> None:
    if size and size[0] * size[1] > MAX_PIXELS:
        raise _too_large(size)


def _too_large(size: Size | None) -> ImageError:
    pixels = f"{size[0]:,} x {size[1]:,}; " if size else ""
    limit = f"{MAX_PIXELS // 1_000_000} million"
    return ImageError(f"it has too many pixels ({pixels}at most {limit} are read).", "Make it smaller.")


def _decoded(image: ImageFile, at_least: Size | None, background: str) -> Image.Image:
    if at_least and image.format in _SHRINKING:
        image.draft(None, _turned(at_least, _orientation(image)))
    image.load()
    # After loading: a PNG may hold its orientation behind the pixels, and Pillow turns TIFF and AVIF by itself.
    turn = _TURNS.get(_orientation(image))
    upright = _as_rgb(image, background)
    return upright.transpose(turn) if turn is not None else upright


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none or it cannot be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _turned(size: Size, orientation: int) -> Size:
    return (size[1], size[0]) if 5 <= orientation <= 8 else size


def _as_rgb(image: Image.Image, background: str) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_scaled_grey(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        with_alpha = image if image.mode == "RGBA" else image.convert("RGBA")
        opaque = Image.new("RGB", image.size, background)
        opaque.paste(with_alpha, mask=with_alpha.getchannel("A"))
        return opaque
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _scaled_grey(grey: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale deep grey to 8 bits by the range that its numbers are meant to have; an odd range by its ends."""
    ends = [(float(known.min()), float(known.max())) for known in map(_numbers, _bands(grey)) if known.size]
    low, high = min((low for low, _ in ends), default=0.0), max((high for _, high in ends), default=0.0)
    if low >= 0 and high <= 1 and np.issubdtype(grey.dtype, np.floating):
        high, low = 1.0, 0.0
    elif low >= 0 and high <= 65535 and np.issubdtype(grey.dtype, np.integer):
        high, low = 65535.0, 0.0
    elif low >= 0 and high <= 255:
        high, low = 255.0, 0.0
    scale = 255 / max(high - low, 1e-12)
    bands = [np.rint((np.nan_to_num(band, nan=low) - low) * scale).astype(np.uint8) for band in _bands(grey)]
    return np.concatenate(bands)


def _numbers(band: NDArray[np.float32]) -> NDArray[np.float32]:
    return band[~np.isnan(band)]


def _bands(grey: NDArray[np.generic]) -> Iterator[NDArray[np.float32]]:
    """Give the rows of an image a few at a time, bounded so that no difference of two numbers is infinite."""
    for top in range(0, len(grey), _BAND_ROWS):
        yield np.clip(grey[top : top + _BAND_ROWS].astype(np.float32), -1e38, 1e38)
