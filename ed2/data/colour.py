"""Colour spaces: pixels in the space that a file names become sRGB, which is what models are trained on.

A file without a profile, or with one that is sRGB, is returned as it is.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 16 << 20
"""Larger profiles are ignored; those of printers have up to about 4 MB."""
CLOSE_ENOUGH = 2
"""Levels of 255: a profile that changes no colour by more is one of the many versions of sRGB."""
_MAX_PADDING = 1024
"""Bytes that may follow a profile; more means that its length is wrong."""
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's mode for the colour space of a profile."""

Point = tuple[float, float]
Primaries = tuple[Point, Point, Point, Point]
"""The xy coordinates of red, green, blue and white."""

_D65: Point = (0.3127, 0.3290)
SRGB_PRIMARIES: Primaries = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65)
_PRIMARIES: dict[int, Primaries] = {
    1: SRGB_PRIMARIES,
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
"""ITU-T H.273, ColourPrimaries."""
_ADOBE_PRIMARIES: Primaries = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _D65)
_ADOBE_GAMMA = 563 / 256
"""Adobe RGB (1998) Color Image Encoding, sections 4.3.1.1 and 4.3.4.2."""
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
"""ITU-T H.273, TransferCharacteristics that are a power."""
_LIKE_SRGB = (1, 6, 13, 14, 15)
"""Transfer characteristics shown as sRGB: those of video (BT.709 and its kin) describe the camera, not the screen."""
_PQ, _HLG = 16, 18
_WHITE_NITS = 203
"""White of ordinary images within HDR (ITU-R BT.2408); what is brighter is clipped."""
_CURVE_POINTS = 4096
_BAND_ROWS = 256
"""Rows of 16-bit grey that are converted at once, to limit the memory for floats."""
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])


@dataclass(frozen=True)
class Conversion:
    """How pixels with a profile become sRGB."""

    mode: str = "RGB"
    """Pillow's mode of the pixels that it takes."""
    transform: ImageCms.ImageCmsTransform | None = None
    """None if the pixels stay as they are."""
    fault: str = ""
    """Why the profile is ignored; empty if it is not."""


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in one of Pillow's modes; itself if it has that mode, which `convert` would copy."""
    if image.mode == mode:
        return image
    return image.convert(mode)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image without transparency as sRGB, mode RGB.

    A profile that is broken, or not for this kind of pixels, is ignored.
    """
    conversion = conversion_for(image.mode, profile)
    if conversion.transform is None:
        return in_mode(image, "RGB")
    source = in_mode(image, conversion.mode)
    converted = conversion.transform.apply(source)
    assert isinstance(converted, Image.Image)
    return converted


def conversion_for(mode: str, profile: bytes | None) -> Conversion:
    """Return how pixels of a mode are converted; `fault` says why a profile is ignored."""
    if not profile:
        return Conversion()
    found = _conversion(profile)
    if found.transform is None:
        return found
    is_ink, is_grey = mode == "CMYK", mode in ("1", "L", "LA") or mode.startswith(("I", "F"))
    if (found.mode == "CMYK") != is_ink or (found.mode == "L" and not is_grey):
        return Conversion(fault="it is for another colour mode than the image has")
    return found


@lru_cache(maxsize=16)
def _conversion(profile: bytes) -> Conversion:
    """Read a profile. Images of a camera or a program all have the same one."""
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return Conversion(fault="it is not an ICC profile")
    length = int.from_bytes(profile[:4], "big")
    if not 132 <= length <= len(profile) <= length + _MAX_PADDING:
        return Conversion(fault="its length is wrong")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODES.get(source.profile.xcolor_space.strip())
        if mode is None:
            return Conversion(fault="it is not for RGB, grey or CMYK")
        transform = ImageCms.buildTransform(source, _srgb(), mode, "RGB", ImageCms.Intent.PERCEPTUAL)
        if mode != "CMYK" and _changes_nothing(transform, mode):
            return Conversion(mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        return Conversion(fault=f"it is damaged ({error})")
    return Conversion(mode, transform)


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Tell whether colours from all over the space stay as they are."""
    levels = np.linspace(0, 255, 16).astype(np.uint8)
    before = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3))
    if mode == "L":
        before = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    after = transform.apply(before)
    assert isinstance(after, Image.Image)
    difference = np.asarray(after).astype(int) - np.asarray(before.convert("RGB"))
    return bool(np.abs(difference).max() <= CLOSE_ENOUGH)


@lru_cache(maxsize=16)
def profile_of_codes(primaries: int, transfer: int) -> bytes | None:
    """Return a profile for the codes of ITU-T H.273, as in PNG and AVIF; None for sRGB and for unknown codes."""
    points = _PRIMARIES.get(primaries)
    if points is None or (points == SRGB_PRIMARIES and transfer in _LIKE_SRGB):
        return None
    if transfer in _GAMMAS:
        return matrix_profile(points, _signal() ** _GAMMAS[transfer])
    if transfer in _LIKE_SRGB:
        signal = _signal()
        return matrix_profile(points, np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4))
    if transfer == _PQ:
        return matrix_profile(points, _pq(_signal()))
    if transfer != _HLG:
        return None
    return matrix_profile(points, _hlg(_signal()))


@lru_cache(maxsize=16)
def profile_of_gamma(gamma: float, primaries: Primaries | None) -> bytes | None:
    """Return a profile for PNG's gAMA and cHRM; None for those of sRGB and for numbers that make no sense."""
    points = primaries or SRGB_PRIMARIES
    if not 0.1 <= gamma <= 2:
        return None
    if abs(gamma - 1 / 2.2) < 0.005 and np.allclose(points, SRGB_PRIMARIES, atol=0.002):
        return None
    return matrix_profile(points, _signal() ** (1 / gamma))


@lru_cache(maxsize=1)
def profile_of_adobe_rgb() -> bytes | None:
    """Return a profile for Adobe RGB, which cameras name in EXIF only."""
    return matrix_profile(_ADOBE_PRIMARIES, _signal() ** _ADOBE_GAMMA)


def _signal() -> np.ndarray:
    return np.linspace(0, 1, _CURVE_POINTS)


def _pq(signal: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084, with white at 1."""
    root = signal ** (1 / 78.84375)
    nits = 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    return np.minimum(nits / _WHITE_NITS, 1)


def _hlg(signal: np.ndarray) -> np.ndarray:
    """ARIB STD-B67 on a screen of 1000 nits, with white at 1; its gamma of 1.2 is applied to each channel."""
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return np.minimum(1000 * scene**1.2 / _WHITE_NITS, 1)


def matrix_profile(primaries: Primaries, curve: np.ndarray) -> bytes | None:
    """Return an ICC profile of version 2; None if the primaries make no colour space.

    Args:
        primaries: the xy coordinates of red, green, blue and white.
        curve: the light for each signal, both from 0 to 1.
    """
    colorants = _colorants(primaries)
    if colorants is None:
        return None
    levels = np.rint(curve * 65535).astype(">u2").tobytes()
    shared = b"curv\0\0\0\0" + struct.pack(">I", len(curve)) + levels
    parts = [(b"wtpt", _number_tag(_D50))]
    parts += [(name, _number_tag(values)) for name, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True)]
    parts += [(name, shared) for name in (b"rTRC", b"gTRC", b"bTRC")]
    return _profile_of(parts)


def _colorants(primaries: Primaries) -> np.ndarray | None:
    """Return the XYZ of red, green and blue for white at D50, a row each; None if they make no colour space."""
    red, green, blue, white = (_xyz(point) for point in primaries)
    if red is None or green is None or blue is None or white is None:
        return None
    columns = np.stack([red, green, blue], axis=1)
    try:
        scaled = columns * np.linalg.solve(columns, white)
    except np.linalg.LinAlgError:
        return None
    adaptation = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD
    colorants: np.ndarray = (adaptation @ scaled).T
    if not np.isfinite(colorants).all() or np.abs(colorants).max() > 100:
        return None
    return colorants


def _profile_of(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the ICC profile of an RGB screen that has these tags, each a name and its content."""
    place = 132 + 12 * len(parts)
    table = struct.pack(">I", len(parts))
    body = b""
    for name, content in parts:
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I", place + len(body)) + bytes(4) + b"\x02\x10\0\0mntrRGB XYZ " + bytes(12) + b"acsp"
    head += bytes(28) + _fixed(_D50)
    return head + bytes(128 - len(head)) + table + body


def _xyz(point: Point) -> np.ndarray | None:
    x, y = point
    if y > 0:
        return np.array([x / y, 1.0, (1 - x - y) / y])
    return None


def _number_tag(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _fixed(values: np.ndarray) -> bytes:
    return np.rint(values * 65536).astype(">i4").tobytes()


def scale_grey(grey: NDArray[np.generic]) -> NDArray[np.uint8]:
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
