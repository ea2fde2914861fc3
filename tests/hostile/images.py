"""More than 300 malformed and unusual images, the same on every machine, each with what is expected of it."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from tests.hostile.cases import Case
from tests.hostile.odd_images import odd_images
from tests.hostile.painting import DAMAGED, FORMATS, SIGNATURE, SIZE, TOO_MANY, TOO_SMALL, chunk, noise, png, saved


def all_images(seed: int = 7) -> Iterator[Case]:
    """Every case; `seed` decides where files are cut and which bytes are spoilt."""
    generator = np.random.default_rng(seed)
    whole = {kind: saved(noise(), kind) for kind in FORMATS}
    yield from _good(whole)
    yield from _cut(whole, generator)
    yield from _spoilt(whole, generator)
    yield from _no_images()
    yield from _bombs()
    yield from _broken_png()
    yield from odd_images()


def _good(whole: dict[str, bytes]) -> Iterator[Case]:
    """Every format under every extension: what counts is the content."""
    for kind, content in whole.items():
        for extension in (*FORMATS.values(), "jfif"):
            yield Case(f"named-{kind.lower()}.{extension}", content)


def _cut(whole: dict[str, bytes], generator: np.random.Generator) -> Iterator[Case]:
    for kind, content in whole.items():
        for number, share in enumerate(generator.uniform(0.002, 0.93, 16)):
            cut = content[: max(1, int(len(content) * share))]
            yield Case(f"cut-{kind.lower()}-{number:02d}.{FORMATS[kind]}", cut, DAMAGED + "|not an image|text|zeros")


def _spoilt(whole: dict[str, bytes], generator: np.random.Generator) -> Iterator[Case]:
    """Bytes replaced, zeroed, taken out: most are found, some give other pixels, which nobody can know."""
    for kind, content in whole.items():
        for number in range(8):
            data = bytearray(content)
            for place in generator.integers(0, len(data), 6):
                data[place] = int(generator.integers(256))
            yield Case(f"spoilt-{kind.lower()}-{number}.{FORMATS[kind]}", bytes(data), ".", either=True)
        half = len(content) // 2
        yield Case(f"hole-{kind.lower()}.{FORMATS[kind]}", content[:half] + content[half + 99 :], ".", either=True)
        yield Case(f"zeroed-{kind.lower()}.{FORMATS[kind]}", content[:half] + bytes(half), ".", either=True)
        yield Case(f"longer-{kind.lower()}.{FORMATS[kind]}", content + b"junk" * 100)
        yield Case(f"empty.{FORMATS[kind]}", b"", "the file is empty")


def _no_images() -> Iterator[Case]:
    page = b"<!DOCTYPE html><html><body>404 not found</body></html>"
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    laughs = b"".join(b'<!ENTITY l%d "%s">' % (n, b"&l%d;" % (n - 1) * 9) for n in range(1, 10))
    contents = {
        "page": (page, r"web page \(HTML\)"),
        "page-with-mark": (b"\xef\xbb\xbf\n" + page, r"web page \(HTML\)"),
        "svg": (svg, "SVG"),
        "svg-bomb": (b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY l0 "ha">' + laughs + b"]>" + svg, "SVG|HTML"),
        "svg-path-to-file": (
            b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + svg,
            "SVG",
        ),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS"),
        "words": (b"just words about a cat\n" * 50, "this is text"),
        "json": (b'{"error": "rate limit exceeded"}', "this is text"),
        "zeros": (bytes(4096), "only zeros"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(x) run\n", "EPS"),
        "eps-for-windows": (b"\xc5\xd0\xd3\xc6" + bytes(26) + b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
        "pdf": (b"%PDF-1.7\n1 0 obj <<>> endobj\n", "PDF"),
        "psd": (b"8BPS\0\1" + bytes(200), "Photoshop"),
        "heic": (b"\0\0\0\x18ftypheic" + bytes(200), "HEIC|damaged"),
        "mp4": (b"\0\0\0\x18ftypisom" + bytes(200), "MP4"),
        "zip": (b"PK\x03\x04" + bytes(200), "ZIP"),
        "pickle": (b"\x80\x04cposix\nsystem\n(S'touch pwned'\ntR.", "not an image"),
        "exe": (b"MZ" + bytes(range(256)), "not an image"),
        "ico": (b"\0\0\1\0\1\0" + bytes(200), "cut short|damaged"),
        "ppm": (b"P6\n9 9\n255\n" + bytes(243), TOO_SMALL),
        "ppm-huge": (b"P6\n99999 99999\n255\n", TOO_MANY),
        "fits": (b"SIMPLE  =                    T" + b" " * 200, "text|not an image"),
        "xbm": (b"#define i_width 9\n#define i_height 9\nstatic char i_bits[] = {0x00};", "this is text"),
        "jp2": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(200), DAMAGED),
        "random": (np.random.default_rng(3).bytes(3000), "not an image"),
        "one-byte": (b"\x89", "not an image|damaged|cut short"),
        "png-mark-only": (SIGNATURE, DAMAGED),
        "jpeg-mark-only": (b"\xff\xd8\xff", DAMAGED),
    }
    for name, (content, words) in contents.items():
        yield Case(f"no-{name}.png", content, words)
        yield Case(f"no-{name}.jpg", content, words)


def _bombs() -> Iterator[Case]:
    """Small files that claim, or unpack to, very much."""
    for width, height in ((60000, 60000), (12000, 12000), (2**31 - 1, 1), (1, 2**31 - 1), (10001, 10000)):
        words = f"{TOO_MANY}|{TOO_SMALL}|{DAMAGED}"
        yield Case(f"bomb-{width}x{height}.png", png((width, height), data=zlib.compress(b"")), words)
    jpeg = saved(noise(), "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    yield Case("bomb.jpg", jpeg[:frame] + b"\xff\xdc\xff\xdc" + jpeg[frame + 4 :], TOO_MANY)
    bmp = saved(noise(), "BMP")
    yield Case("bomb.bmp", bmp[:18] + struct.pack("<ii", 50000, 50000) + bmp[26:], TOO_MANY)
    gif = saved(noise(), "GIF")
    yield Case("bomb.gif", gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:], TOO_MANY)
    frame = gif.index(b"\x2c\0\0\0\0")
    yield Case("bomb-frame.gif", gif[: frame + 5] + struct.pack("<HH", 65535, 65535) + gif[frame + 9 :], TOO_MANY)
    tiff = saved(noise(), "TIFF")
    for tag in (256, 257):
        place = tiff.index(struct.pack("<HHI", tag, 4, 1))
        tiff = tiff[: place + 2] + struct.pack("<HII", 4, 1, 65000) + tiff[place + 12 :]
    yield Case("bomb.tif", tiff, TOO_MANY)
    packed = zlib.compress(bytes(200 << 20), 9)
    for name, data in {
        "zTXt": b"Comment\0\0" + packed,
        "iCCP": b"icc\0\0" + packed,
        "iTXt": b"Comment\0\1\0\0\0" + packed,
    }.items():
        yield Case(f"bomb-{name}.png", png(SIZE, chunk(name.encode(), data)))
    texts = [chunk(b"zTXt", b"k%d\0\0" % n + zlib.compress(bytes(1 << 20), 9)) for n in range(100)]
    yield Case("bomb-many-zTXt.png", png(SIZE, *texts))
    yield Case("bomb-rows.png", png(SIZE, data=zlib.compress(bytes(300 << 20), 9)), either=True, expected=DAMAGED)
    yield Case("large-but-allowed.png", png((10000, 9999), depth=1, colour=0))


def _broken_png() -> Iterator[Case]:
    good = png(SIZE)
    head, pixels = good[8:33], good[33:]
    data = zlib.compress(bytes((1 + 3 * SIZE[0]) * SIZE[1]))
    broken = {
        "no-head": SIGNATURE + pixels,
        "bad-head-crc": SIGNATURE + head[:-1] + b"\0" + pixels,
        "no-width": png((0, 64), data=data),
        "no-height": png((64, 0), data=data),
        "negative-width": png((2**32 - 64, 64), data=data),
        "depth-3": png(SIZE, depth=3, data=data),
        "depth-255": png(SIZE, depth=255, data=data),
        "colour-5": png(SIZE, colour=5, data=data),
        "bad-packing": png(SIZE, data=b"no zlib at all"),
        "short-rows": png(SIZE, data=zlib.compress(bytes(100))),
        "bad-filter": png(SIZE, data=zlib.compress((b"\x09" + bytes(3 * SIZE[0])) * SIZE[1])),
        "no-pixels": SIGNATURE + head + chunk(b"IEND", b""),
        "huge-chunk": SIGNATURE + head + struct.pack(">I", 2**31 - 1) + b"IDATxx",
        "odd-chunk": SIGNATURE + head + chunk(b"\0\1\2\3", b"x") + pixels,
    }
    for name, content in broken.items():
        yield Case(f"png-{name}.png", content, f"{DAMAGED}|{TOO_MANY}")
    kept = {
        "no-palette": png(SIZE, colour=3),
        "two-heads": SIGNATURE + head + head + pixels,
        "bad-gamma": png(SIZE, chunk(b"gAMA", b"")),
        "bad-exif": png(SIZE, chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")),
        "bad-icc": png(SIZE, chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))),
        "bad-apng": png(SIZE, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
        "no-apng-frames": png(SIZE, chunk(b"acTL", struct.pack(">II", 0, 0))),
    }
    for name, content in kept.items():
        yield Case(f"png-{name}.png", content, ".", either=True)
