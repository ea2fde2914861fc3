"""What a file is, by its extension and its first bytes: an image that can be read, one that cannot, or neither."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image
from PIL.ImageFile import ImageFile

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "ICO", "PPM", "DDS")
"""Pillow's names. Naming them keeps Pillow from starting Ghostscript on an EPS that is called .png."""
EXTENSIONS = frozenset(
    "jpg jpeg jpe jfif jpg_large jpg_orig mpo png apng bmp dib webp gif tif tiff avif avifs heic heif hif "
    "jp2 j2k jpx jpf ico ppm pgm pbm pnm dds".split()
)
"""Files with these are always taken for images; others only if their first bytes are those of one."""
_RAW = "cr2 cr3 crw nef nrw arw srf sr2 dng orf rw2 raf pef srw 3fr iiq erf mrw x3f kdc dcr raw"
UNSUPPORTED_IMAGES = frozenset(
    f"psd psb svg svgz eps ps ai pdf jxl tga qoi pcx sgi exr hdr xcf kra ora clip xpm xbm emf wmf {_RAW}".split()
)
"""Formats that people have but that cannot be read here: reported, so that nobody misses them later."""
_VIDEOS = frozenset("mp4 m4v mov avi mkv webm wmv mpg mpeg".split())
_ARCHIVES = frozenset("zip rar 7z tar tgz".split())
_NEITHER = frozenset(
    "txt caption yaml yml json jsonl csv tsv md html htm css js py sh bat toml ini log db lnk url xml rtf doc docx odt "
    "npz npy pt pth safetensors ckpt bin onnx pkl parquet sha256 md5 torrent part tmp bak".split()
)
"""Extensions of files that are never opened to see whether they are images."""
CONVERT = "Save it as PNG, JPEG or WebP."
NO_HEIF = "reading HEIC needs the optional package pillow-heif, which is not installed"
ADD_HEIF = "Run './launch.sh add heif', or save it as PNG, JPEG or WebP."

HEAD_BYTES = 32
"""As many of a file as the functions below need."""
_SIGNATURES = (
    b"\x89PNG\r\n",
    b"\xff\xd8\xff",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"DDS ",
    b"\x00\x00\x00\x0cjP  ",
    b"\xff\x4f\xff\x51",
)
_BMP_HEADS = (b"\x0c\0\0\0", b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0")
_NETPBM = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
_UNSUPPORTED_SIGNATURES = {
    b"8BPS": "Photoshop (PSD)",
    b"%!PS": "EPS",
    b"\xc5\xd0\xd3\xc6": "EPS",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"qoif": "QOI",
    b"#?RADIANCE": "HDR",
    b"v/1\x01": "OpenEXR",
    b"gimp xcf": "GIMP (XCF)",
    b"\x1aE\xdf\xa3": "WebM video",
}
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"hei", b"hev", b"mif", b"msf")


def is_heif(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes is a HEIC or HEIF image."""
    return head[4:8] == b"ftyp" and head[8:11] in _HEIF_BRANDS


def can_read_heif() -> bool:
    """Tell whether the optional package for HEIC is installed."""
    return find_spec("pillow_heif") is not None


@lru_cache(maxsize=1)
def _register_heif() -> None:
    import pillow_heif  # type: ignore[import-not-found, unused-ignore]

    pillow_heif.register_heif_opener()


def open_heif(path: Path) -> ImageFile:
    """Open a HEIC or HEIF image; needs the optional package."""
    _register_heif()
    return Image.open(path, formats=("HEIF",))


def why_unsupported(extension: str) -> tuple[str, str] | None:
    """Return what is wrong with a file whose extension says that it cannot be used, and what to do."""
    if extension in UNSUPPORTED_IMAGES:
        return f"the {extension.upper()} format is not supported", CONVERT
    if extension in _VIDEOS:
        return "this is a video, not an image", "Save the frames to train on as images."
    if extension in _ARCHIVES:
        return "this is an archive, and archives are not opened", "Unpack it, or move it elsewhere."
    return None


def may_be_image(extension: str) -> bool:
    """Tell whether it is worth looking at the first bytes of a file with an extension that is not one of images."""
    return extension not in _NEITHER


def unsupported_format(head: bytes) -> str:
    """Return the name of an image format that cannot be read here; empty for others."""
    for signature, name in _UNSUPPORTED_SIGNATURES.items():
        if head.startswith(signature):
            return name
    return ""


def starts_like_image(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes is an image of a format that can be read."""
    if head.startswith(_SIGNATURES) or is_heif(head):
        return True
    if head[4:8] == b"ftyp":
        return head[8:12] in _AVIF_BRANDS
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    if head.startswith(b"BM"):
        return head[6:10] == bytes(4) and head[14:18] in _BMP_HEADS
    return _starts_like_ppm_or_icon(head)


def _starts_like_ppm_or_icon(head: bytes) -> bool:
    if head.startswith(b"\0\0\1\0"):
        return head[5:6] == b"\0" and head[4:5] != b"\0"
    return head[:2] in _NETPBM and head[2:3] in (b" ", b"\t", b"\r", b"\n")
