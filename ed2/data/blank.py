"""Images that show nothing: transparent throughout, or of one plain colour."""

from PIL import Image

_PROBE = (16, 16)
"""A sample of pixels, which is enough to tell that an image does show something."""


def is_transparent(image: Image.Image) -> bool:
    """Tell whether no pixel of a loaded image can be seen."""
    if not image.has_transparency_data:
        return False
    return _has_no_alpha(image.resize(_PROBE, Image.Resampling.NEAREST)) and _has_no_alpha(image)


def _has_no_alpha(image: Image.Image) -> bool:
    return image.convert("RGBA").getchannel("A").getextrema() == (0, 0)


def is_plain(image: Image.Image) -> bool:
    """Tell whether all pixels of a loaded image have the same colour."""
    return _has_one_value(image.resize(_PROBE, Image.Resampling.NEAREST)) and _has_one_value(image)


def _has_one_value(image: Image.Image) -> bool:
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in bands)
