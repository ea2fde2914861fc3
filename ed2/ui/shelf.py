"""Small copies of images, the only files that the page serves."""

import hashlib
import secrets
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image, ImageDraw
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from ed2.data.images import FORMATS, ImageError, decode

GRACE_SECONDS = 60.0
Box = tuple[int, int, int, int]


class _Forever(StaticFiles):
    """A name stands for one content: each image is asked for once. A page with a login shows them after it alone."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        if not _may_see(scope):
            return PlainTextResponse("Log in first.", 401, {"Cache-Control": "no-store"})
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "private, max-age=604800, immutable"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


class Shelf:
    """A folder of WebP copies under an address that nobody can guess; it goes when the program ends.

    Attributes:
        side: pixels of a copy's longer side.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self._folder = tempfile.TemporaryDirectory(prefix="ed2-images-")
        self._address = f"/images-{secrets.token_urlsafe(12)}"
        self._lock = threading.Lock()
        self._held = ""
        self._outdated: set[Path] = set()
        self._clear_at = 0.0

    def mount(self) -> Mount:
        """The route that serves it."""
        return Mount(self._address, _Forever(directory=self._folder.name))

    def address(self, path: Path, crop: Box | None = None) -> str:
        """Where the browser finds a copy of an image, with what a crop leaves out darkened; empty for no image."""
        try:
            status = path.stat()
            told = f"{path}|{status.st_mtime_ns}|{status.st_size}|{crop}"
            name = f"{hashlib.sha256(told.encode('utf-8', 'replace')).hexdigest()[:24]}.webp"
            copy = Path(self._folder.name) / name
            with self._lock:
                self._outdated.discard(copy)
                if not copy.exists():
                    _write_copy(path, copy, self.side, crop)
        except (OSError, ImageError):
            return ""
        return f"{self._address}/{name}"

    def hold(self, what: str) -> None:
        """Take every copy away when something else is shown than before, such as another run.

        They stay for a minute more: pages that have not heard of it yet may ask for one.
        """
        with self._lock:
            if what != self._held:
                self._held = what
                self._outdated |= set(Path(self._folder.name).iterdir())
                self._clear_at = time.monotonic() + GRACE_SECONDS
            if time.monotonic() >= self._clear_at:
                for copy in self._outdated:
                    copy.unlink(missing_ok=True)
                self._outdated.clear()


def _may_see(scope: Scope) -> bool:
    """Whether who asks has logged in, as Gradio 6.31 keeps that for its own answers, or need not."""
    app = scope["app"]
    if getattr(app, "auth", None) is None:
        return True
    cookies = Request(scope).cookies
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(cookies.get(name) in app.tokens for name in names)


def _write_copy(path: Path, copy: Path, side: int, crop: Box | None) -> None:
    image = decode(path, (side, side))
    if crop:
        with Image.open(path, formats=FORMATS) as header:
            scale = max(image.size) / max(header.size)
        image = _with_crop(image, crop, scale)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    temporary = copy.with_name(f"{copy.stem}-{secrets.token_hex(4)}.tmp")
    image.save(temporary, "WEBP", quality=82)
    temporary.replace(copy)


def _with_crop(image: Image.Image, crop: Box, scale: float) -> Image.Image:
    left, top, right, bottom = (round(number * scale) for number in crop)
    dark = image.point(lambda level: level // 4)
    dark.paste(image.crop((left, top, right, bottom)), (left, top))
    width = max(2, max(image.size) // 100)
    ImageDraw.Draw(dark).rectangle((left, top, right - 1, bottom - 1), outline=(250, 204, 21), width=width)
    return dark
