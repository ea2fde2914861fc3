"""The second half of the images: formats broken from within, colours, turned, moving and oddly shaped ones."""

import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.hostile.cases import Case
from tests.hostile.painting import DAMAGED, FORMATS, SIZE, TOO_MANY, TOO_SMALL, noise, png, saved


def odd_images() -> Iterator[Case]:
    """Every case."""
    yield from _broken()
    yield from _looping_tiff()
    yield from _colours()
    yield from _turned()
    yield from _moving()
    yield from _shapes()


def _broken() -> Iterator[Case]:
    jpeg, gif, webp = (saved(noise(), kind) for kind in ("JPEG", "GIF", "WEBP"))
    bmp, tiff, avif = (saved(noise(), kind) for kind in ("BMP", "TIFF", "AVIF"))
    frame, tables = jpeg.index(b"\xff\xc0"), jpeg.index(b"\xff\xc4")
    place = 13 + 3 * 256 + 10  # after the palette and the frame's head
    broken = {
        "no-height.jpg": jpeg[: frame + 5] + b"\0\0" + jpeg[frame + 7 :],
        "no-width.jpg": jpeg[: frame + 7] + b"\0\0" + jpeg[frame + 9 :],
        "lossless.jpg": jpeg[:frame] + b"\xff\xc3" + jpeg[frame + 2 :],
        "no-frames.gif": gif[:13] + b";",
        "no-chunks.webp": b"RIFF\x04\0\0\0WEBP",
        "lies.webp": webp[:4] + b"\xff\xff\xff\x7f" + webp[8:],
        "no-size.bmp": bmp[:18] + struct.pack("<ii", 0, 0) + bmp[26:],
        "minus-width.bmp": bmp[:18] + struct.pack("<ii", -72, 64) + bmp[26:],
        "depth.bmp": bmp[:28] + struct.pack("<H", 77) + bmp[30:],
        "packing.bmp": bmp[:30] + struct.pack("<I", 99) + bmp[34:],
        "offset.bmp": bmp[:10] + struct.pack("<I", 2**32 - 1) + bmp[14:],
        "no-directory.tif": tiff[:4] + struct.pack("<I", 2**32 - 1) + tiff[8:],
        "packing.tif": tiff.replace(struct.pack("<HHII", 259, 3, 1, 1), struct.pack("<HHII", 259, 3, 1, 4242)),
        "no-item.avif": avif.replace(b"iloc", b"xxxx"),
        "no-pixels.avif": avif[: avif.index(b"mdat") + 4] + bytes(400),
    }
    for name, content in broken.items():
        yield Case(f"broken-{name}", content, f"{DAMAGED}|{TOO_MANY}|not an image")
    kept = {
        "no-tables.jpg": jpeg[:tables] + jpeg[jpeg.index(b"\xff\xda") :],
        "code-size.gif": gif[:place] + b"\x63" + gif[place + 1 :],
        "bad-exif.jpg": saved(noise(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "huge-comment.jpg": jpeg[:2] + (b"\xff\xfe\xff\xff" + bytes(65533)) * 300 + jpeg[2:],
        "bad-icc.jpg": saved(noise(), "JPEG", icc_profile=b"no profile at all"),
        "no-end.jpg": jpeg[:-2],
        "no-end.gif": gif[:-1],
    }
    for name, content in kept.items():
        yield Case(f"kept-{name}", content, ".", either=True)


def _looping_tiff() -> Iterator[Case]:
    """A chain of directories that leads back to the first, and tags that claim more than there is."""
    tiff = saved(noise(), "TIFF")
    (directory,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, directory)
    following = directory + 2 + 12 * count
    loop = tiff[:following] + struct.pack("<I", directory) + tiff[following + 4 :]
    yield Case("broken-loop.tif", loop, ".", either=True)
    for number in range(count):
        place = directory + 2 + 12 * number + 4
        claims = tiff[:place] + struct.pack("<I", 2**31 - 1) + tiff[place + 4 :]
        yield Case(f"broken-tag-{number:02d}.tif", claims, ".", either=True)


def _colours() -> Iterator[Case]:
    red = noise().convert("RGBA")
    red.putalpha(128)
    deep = np.random.default_rng(5).integers(0, 65536, (SIZE[1], SIZE[0]), dtype=np.uint16)
    lut = noise().quantize(32)
    modes = {
        "cmyk.jpg": saved(noise().convert("CMYK"), "JPEG"),
        "cmyk.tif": saved(noise().convert("CMYK"), "TIFF"),
        "lab.tif": saved(Image.new("LAB", SIZE, (128, 128, 128)), "TIFF"),
        "grey.jpg": saved(noise().convert("L"), "JPEG"),
        "grey-alpha.png": saved(noise().convert("LA"), "PNG"),
        "one-bit.png": saved(noise().convert("1"), "PNG"),
        "one-bit.tif": saved(noise().convert("1"), "TIFF"),
        "one-bit.bmp": saved(noise().convert("1"), "BMP"),
        "palette.png": saved(lut, "PNG"),
        "palette.bmp": saved(lut, "BMP"),
        "palette.tif": saved(lut, "TIFF"),
        "palette-alpha.png": saved(lut, "PNG", transparency=bytes(range(32))),
        "palette-key.gif": saved(lut, "GIF", transparency=3),
        "key.png": saved(Image.new("RGB", SIZE, (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
        "grey-key.png": saved(Image.new("L", SIZE, 9), "PNG", transparency=9),
        "deep.png": saved(Image.fromarray(deep), "PNG"),
        "deep.tif": saved(Image.fromarray(deep), "TIFF"),
        "deep-signed.tif": saved(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        "float.tif": saved(Image.fromarray((deep / 65535).astype(np.float32)), "TIFF"),
        "float-nan.tif": saved(Image.fromarray(np.full((64, 72), np.nan, np.float32)), "TIFF"),
        "float-inf.tif": saved(Image.fromarray(np.full((64, 72), np.inf, np.float32)), "TIFF"),
        "deep-colour.png": png(SIZE, depth=16),
        "deep-alpha.png": png(SIZE, depth=16, colour=6),
        "deep-grey-alpha.png": png(SIZE, depth=16, colour=4),
        "two-bit.png": png(SIZE, depth=2, colour=0),
        "four-bit.png": png(SIZE, depth=4, colour=0),
    }
    for kind in ("PNG", "WEBP", "TIFF", "AVIF"):
        modes[f"alpha.{FORMATS[kind]}"] = saved(red, kind)
    # Pillow writes an uncompressed YCbCr TIFF that it cannot read: left out with a reason is right.
    yield Case("colour-ycbcr.tif", saved(noise().convert("YCbCr"), "TIFF"), DAMAGED, either=True)
    clear = ("key.png", "grey-key.png", "deep-alpha.png", "deep-grey-alpha.png")
    for name, content in modes.items():
        yield Case(f"colour-{name}", content, "transparent throughout" if name in clear else "")


def _turned() -> Iterator[Case]:
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        for orientation in (*range(10), 65535):
            exif = Image.Exif()
            exif[0x0112] = orientation
            yield Case(f"turned-{orientation:05d}.{FORMATS[kind]}", saved(noise(), kind, exif=exif))


def _moving() -> Iterator[Case]:
    frames = [noise(seed=number) for number in range(3)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        yield Case(f"moving.{FORMATS[kind]}", content, note="animated")
        yield Case(f"moving-cut.{FORMATS[kind]}", content[: len(content) * 2 // 3], ".", either=True)


def _shapes() -> Iterator[Case]:
    for kind, extension in FORMATS.items():
        yield Case(f"one-pixel.{extension}", saved(noise((1, 1)), kind), TOO_SMALL)
        yield Case(f"thin.{extension}", saved(noise((5000, 1)), kind), TOO_SMALL)
    for width, height in ((10000, 2), (2, 10000), (15, 15), (16, 5000), (5000, 16)):
        yield Case(f"narrow-{width}x{height}.png", saved(noise((width, height)), "PNG"), TOO_SMALL, either=True)
    yield Case("wide.png", saved(noise((400, 40)), "PNG"), note="wide")
