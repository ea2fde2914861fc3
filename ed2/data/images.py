"""Reads image files: size, pixels, and what is wrong with a file that cannot be read."""

import stat
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, get_args

import imagesize
import numpy as np
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from ed2.data.buckets import Size
from ed2.data.colour import conversion_for, in_mode, scale_grey, to_srgb
from ed2.data.diagnosis import diagnose, is_plain, is_transparent
from ed2.data.file_kinds import ADD_HEIF, FORMATS, HEAD_BYTES, NO_HEIF, can_read_heif, is_heif, open_heif
from ed2.data.jpeg import JPEG_MARK, MAX_JPEG_PIXELS, has_bounded_memory
from ed2.data.jpeg import header_size as jpeg_header_size
from ed2.data.side_data import PNG_SIGNATURE, behind_pixels, embedded_profile, png_without_texts
from ed2.disk import sha256_of
from ed2.disk_errors import wait_for_handles
from ed2.errors import Ed2Error, Problem
from ed2.small_files import read_beginning

_T = TypeVar("_T")

MAX_PIXELS = 100_000_000
"""More is taken for a file made to exhaust memory: 100 MP are 300 MB once decoded. JPEGs can be decoded smaller."""
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

_WEBP_FLAGS, _WEBP_TEXTS = 20, 0x0C
"""Where an extended WebP says what it holds, and the bits for EXIF and XMP. Source: RFC 9649, section 2.7."""

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
_LARGE = threading.RLock()


Mark = Literal["plain", "converted", "bad profile"]
"""What is worth knowing about an image that can be used: it has one plain colour; its colours are converted to sRGB;
its colour profile is ignored."""
MARKS: frozenset[Mark] = frozenset(get_args(Mark))
PIXELS_VERSION = 3
"""Counts the rules for how files become pixels, so that what was found by older rules is not trusted."""


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
    marks: frozenset[Mark] = frozenset()
    digest: str = ""
    """Hash of the file's bytes, the same for a copy of any name and time; empty if only the header was read."""
    lasting: bool = True
    """Whether this is true until the file changes."""


def header_size(path: Path | str) -> Size | None:
    """Return the upright size in a file's header, without reading its pixels; None if there is none."""
    try:
        if size := jpeg_header_size(path):
            return size
        path = Path(path)  # only for others: making it takes half as long as that look at a JPEG
        _require_file(path)
        if _may_be_turned(path):
            with suppress(Exception):
                return _size_as_opened(path)
        width, height = imagesize.get(path)
        if width > 0 and height > 0:
            return width, height
        return _size_as_opened(path)
    except Exception:  # neither library documents what it raises for a broken header
        return None


def _may_be_turned(path: Path) -> bool:
    """Whether a file may have an orientation that imagesize does not know: a JPEG, PNG or WebP with EXIF or XMP."""
    head = read_beginning(path, _WEBP_FLAGS + 1)
    if head[8:16] == b"WEBPVP8X":
        return bool(head[_WEBP_FLAGS] & _WEBP_TEXTS)
    return head.startswith((JPEG_MARK, PNG_SIGNATURE))


def _size_as_opened(path: Path) -> Size:
    """Return the upright size as Pillow knows it before it loads the pixels."""
    with Image.open(path, formats=FORMATS) as image:
        if image.format == "PNG":
            for kind, content in behind_pixels(path).items():
                image.info.setdefault(kind, content)
        # Not the method of a PNG, which would load all of it to find what stands behind its pixels.
        return _upright(image.size, _orientation_in(partial(Image.Image.getexif, image)))


def decode(path: Path, at_least: Size | None = None, background: str = WHITE) -> Image.Image:
    """Return an image in RGB and upright, by reading its whole file; the first frame of an animation.

    Transparent images are composited onto a background, and 16-bit grey is scaled to 8 bits.

    Args:
        path: the file.
        at_least: a sufficient size; a larger JPEG may then be decoded 2, 4 or 8 times smaller, which is much faster.
            One of more than 100 million pixels always is.
        background: a colour, as #rrggbb or a name that Pillow knows.

    Raises:
        ImageError: the file is not an image, is damaged, or is too large.
    """
    return _read(path, lambda image: _decoded(path, image, at_least, background))


def decode_and_check(path: Path, at_least: Size, background: str) -> tuple[Image.Image, ImageFacts]:
    """Return what `decode` returns, and what `check_image` does but for the hash, by reading the file once.

    Raises:
        ImageError: as `decode` does, and where the image shows nothing.
    """

    def use(image: ImageFile) -> tuple[Image.Image, ImageFacts]:
        size = image.size
        decoded = _decoded(path, image, at_least, background)
        if image.format not in _SHRINKING:
            size = image.size
        return decoded, _facts(path, image, size)

    return _read(path, use)


def check_image(path: Path) -> ImageFacts:
    """Return the upright size of an image by reading all of it, or what is wrong with it.

    A JPEG is decoded eight times smaller, in about half the time: every byte is still read, and damage is still found.
    """

    def look(image: ImageFile) -> ImageFacts:
        return replace(_inspect(path, image), digest=sha256_of(path)[:DIGEST_LENGTH])

    try:
        return wait_for_handles(lambda: _read(path, look))
    except ImageError as error:
        return ImageFacts((0, 0), Problem(str(path), error.what, error.fix), lasting=error.lasting)


def read_header_facts(path: str) -> ImageFacts:
    """Return the upright size in an image's header; reads all of an image whose header makes no sense."""
    size = header_size(path)
    if size is None or _pixels(size) > MAX_PIXELS:
        return check_image(Path(path))
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
        is_large = size is not None and _pixels(size) > MAX_PIXELS
        is_large_jpeg = is_large and read_beginning(path, len(JPEG_MARK)) == JPEG_MARK
        if not is_large_jpeg:
            _require_small_enough(size)
        with _alone_if_large(size):
            return _use_large_jpeg(path, use) if is_large_jpeg else _use(path, use)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(None) from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more on bad files
        from_system = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
        what, fix = diagnose(path, error)
        raise ImageError(what, fix, lasting=not from_system) from error


def _use(path: Path, use: Callable[[ImageFile], _T]) -> _T:
    """Open an image for `use`; a PNG that fails once more without its texts, and a HEIC with the package for it."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            _require_small_enough(image.size)
            return use(image)
    except (ImageError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception:
        head = read_beginning(path, HEAD_BYTES)
        if head.startswith(PNG_SIGNATURE):
            again: ImageFile = Image.open(png_without_texts(path), formats=("PNG",))
        elif is_heif(head):
            if not can_read_heif():
                raise ImageError(f"{NO_HEIF}.", ADD_HEIF, lasting=False) from None
            again = open_heif(path)
        else:
            raise
    with again:
        _require_small_enough(again.size)
        return use(again)


def _use_large_jpeg(path: Path, use: Callable[[ImageFile], _T]) -> _T:
    image = JpegImageFile(path)  # Image.open has a limit of its own
    with image:
        if _pixels(image.size) > MAX_JPEG_PIXELS or not has_bounded_memory(path, image):
            raise _too_large(image.size, MAX_JPEG_PIXELS)
        return use(image)


def _require_file(path: Path) -> None:
    """Refuse pipes and devices, which would block, and files that are too large to read."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("this is not a file.", "Delete or rename it.", lasting=False)
    if status.st_size > MAX_FILE_BYTES:
        what = f"the file is too large ({status.st_size >> 20:,} MB; the limit is {MAX_FILE_BYTES >> 20} MB)."
        raise ImageError(what, "Save it smaller.")


def _alone_if_large(size: Size | None) -> AbstractContextManager[object]:
    if size and _pixels(size) > LARGE_PIXELS:
        return _LARGE
    return nullcontext()


def _pixels(size: Size) -> int:
    return size[0] * size[1]


def _inspect(path: Path, image: ImageFile) -> ImageFacts:
    """Return the facts of an image by reading all of it."""
    size = _load_small(image)
    if image.mode not in _PLAIN_MODES:
        _as_rgb(image, WHITE, None)
    return _facts(path, image, size)


def _facts(path: Path, image: ImageFile, size: Size) -> ImageFacts:
    """Return the facts of an image that has been loaded, maybe smaller than its `size`."""
    animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    if is_transparent(image):
        where = "its first frame" if animated else "it"
        raise ImageError(f"{where} shows nothing: it is transparent throughout.", "Replace it, or delete it.")
    marks = _colour_marks(path, image)
    # Decoded smaller, fine lines may look like one colour.
    if is_plain(image) and (size == image.size or is_plain(decode(path))):
        marks |= {"plain"}
    return ImageFacts(_upright(size, _orientation(image)), animated=animated, marks=marks)


def _load_small(image: ImageFile) -> Size:
    """Load an image, as small as its format can be decoded, and return its full size."""
    size = image.size
    if image.format not in _SHRINKING:
        image.load()
        return image.size  # which only the pixels of some formats tell
    image.draft(None, (1, 1))
    image.load()
    return size


def _colour_marks(path: Path, image: ImageFile) -> frozenset[Mark]:
    conversion = conversion_for(image.mode, embedded_profile(path, image))
    if conversion.fault:
        return frozenset(("bad profile",))
    if not conversion.transform:
        return frozenset()
    return frozenset(("converted",))


def _require_small_enough(size: Size | None) -> None:
    if size and _pixels(size) > MAX_PIXELS:
        raise _too_large(size)


def _too_large(size: Size | None, limit: int = MAX_PIXELS) -> ImageError:
    what = f"the limit is {limit // 1_000_000} million"
    if size:
        what = f"{size[0]:,} x {size[1]:,}; {what}"
    return ImageError(f"it has too many pixels ({what}).", "Make it smaller.")


def _decoded(path: Path, image: ImageFile, at_least: Size | None, background: str) -> Image.Image:
    if image.format in _SHRINKING and (at_least or _pixels(image.size) > MAX_PIXELS):
        width, height = _upright(at_least, _orientation(image)) if at_least else image.size
        if _pixels(image.size) > MAX_PIXELS:
            width, height = min(width, image.width // 2), min(height, image.height // 2)
        image.draft(None, (width, height))
    profile = embedded_profile(path, image)
    image.load()
    # After loading: a PNG may store its orientation after the pixels, and Pillow turns TIFF and AVIF by itself.
    turn = _TURNS.get(_orientation(image))
    decoded = _as_rgb(image, background, profile)
    if turn is None:
        return decoded
    return decoded.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 if there is none or it cannot be read."""
    return _orientation_in(image.getexif)


def _orientation_in(exif: Callable[[], Image.Exif]) -> int:
    try:
        return int(exif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _upright(size: Size, orientation: int) -> Size:
    if 5 <= orientation <= 8:
        return size[::-1]
    return size


def _as_rgb(image: Image.Image, background: str, profile: bytes | None) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return to_srgb(Image.fromarray(scale_grey(np.asarray(image))), profile)
    if not image.has_transparency_data:
        return to_srgb(image, profile)
    with_alpha = in_mode(image, "RGBA")
    content = with_alpha
    if profile:
        content = to_srgb(with_alpha.convert("RGB"), profile)
    opaque = Image.new("RGB", image.size, background)
    opaque.paste(content, mask=with_alpha.getchannel("A"))
    return opaque
