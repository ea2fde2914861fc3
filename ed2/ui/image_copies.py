"""Small copies of images, the only files that the page serves."""

import hashlib
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from ed2.data.images import ImageError, decode
from ed2.ui.guard import has_session

GRACE_SECONDS = 60.0
MAX_OFFERED = 10_000
"""Copies that are made when they are asked for; an older offer is forgotten."""
SMALL = "-s"
UNREADABLE_SIZE = (8, 8)
MAX_ENTERED = 40_000
"""Images with copies in several sizes; an older one is forgotten."""
MAKERS = 2
"""How many of them are made at once: the run needs the processor too."""


class ImageCopies:
    """A folder of WebP copies under an address that nobody can guess; it is deleted when the program exits.

    Attributes:
        side: pixels of a copy's longer side.
        small_side: the same of the small copy of an image that was entered.
        route: begins the addresses of the copies.
    """

    def __init__(self, side: int, small_side: int = 320) -> None:
        self.side, self.small_side = side, small_side
        self.route = f"/images-{secrets.token_urlsafe(12)}"
        self._temporary = tempfile.TemporaryDirectory(prefix="ed2-images-")
        self._lock = threading.Lock()
        self._owner = ""
        self._outdated: set[Path] = set()
        self._clear_at = 0.0
        self._offered: dict[str, tuple[Path, int]] = {}
        self._entered: dict[str, Path] = {}
        self._makers = threading.Semaphore(MAKERS)

    @property
    def folder(self) -> Path:
        """Where the copies are."""
        return Path(self._temporary.name)

    def mount(self) -> Mount:
        """The route that serves it."""
        return Mount(self.route, _CachedFiles(directory=self.folder, make=self.make))

    def offer(self, path: Path, side: int = 0) -> str:
        """Where the browser finds a copy of an image that is made once it is asked for; empty without the file.

        Args:
            path: the image.
            side: pixels of the longer side, if not as usual.
        """
        side = side or self.side
        try:
            status = path.stat()
        except OSError:
            return ""
        name = _name_of(f"{path}|{status.st_mtime_ns}|{status.st_size}|{side}")
        with self._lock:
            self._offered.pop(name, None)
            self._offered[name] = (path, side)
            while len(self._offered) > MAX_OFFERED:
                del self._offered[next(iter(self._offered))]
        return f"{self.route}/{name}"

    def enter(self, path: Path) -> str:
        """A key of an image, of which the browser may then ask for `<route>/<key>-s.webp`, `.webp` and `.png`.

        The first two have at most `small_side` and `side` pixels, the last is the whole image without loss. The key is
        empty without the file.
        """
        try:
            status = path.stat()
        except OSError:
            return ""
        key = _key_of(f"{path}|{status.st_mtime_ns}|{status.st_size}")
        with self._lock:
            self._entered.pop(key, None)
            self._entered[key] = path
            while len(self._entered) > MAX_ENTERED:
                del self._entered[next(iter(self._entered))]
        return key

    def make(self, name: str) -> None:
        """Make the copy of this name, if it was offered and is not there; a grey one of what cannot be read."""
        copy, work = self.folder / name, self._work_for(name)
        if work is None or copy.exists():
            return
        with self._makers:
            try:
                work(copy)
            except (OSError, ImageError):
                _save(Image.new("RGB", UNREADABLE_SIZE, "grey"), copy)

    def _work_for(self, name: str) -> Callable[[Path], None] | None:
        """What makes the copy of this name; None if it was not offered."""
        if offered := self._offered.get(name):
            return lambda copy: _write_copy(offered[0], copy, offered[1])
        key = name.partition(".")[0]
        entered = self._entered.get(key.removesuffix(SMALL))
        sides = {f"{key}.png": None, f"{key}.webp": self.side}
        if key.endswith(SMALL):
            sides = {f"{key}.webp": self.small_side}
        if entered is None or name not in sides:
            return None
        return lambda copy: _write_whole(entered, copy, sides[name])

    def keep_only(self, owner: str) -> None:
        """Delete the copies of the previous owner, such as another run, when the owner changes.

        They stay for another minute: pages that still show them may ask for one.
        """
        with self._lock:
            if owner != self._owner:
                self._owner = owner
                self._outdated |= set(self.folder.iterdir())
                self._clear_at = time.monotonic() + GRACE_SECONDS
            if time.monotonic() >= self._clear_at:
                for copy in self._outdated:
                    copy.unlink(missing_ok=True)
                self._outdated.clear()


class _CachedFiles(StaticFiles):
    """Files that never change under their name: a browser asks for each one once, after the login if there is one."""

    def __init__(self, directory: Path, make: Callable[[str], None]) -> None:
        super().__init__(directory=directory)
        self._make = make

    async def get_response(self, path: str, scope: Scope) -> Response:
        if not has_session(scope["app"], scope):
            return PlainTextResponse("Log in first.", 401, {"Cache-Control": "no-store"})
        await run_in_threadpool(self._make, path)
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "private, max-age=604800, immutable"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _name_of(key: str) -> str:
    return f"{_key_of(key)}.webp"


def _key_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:20]


def _write_copy(path: Path, copy: Path, side: int) -> None:
    image = decode(path, (side, side))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    _save(image, copy)


def _write_whole(path: Path, copy: Path, side: int | None) -> None:
    """Write a copy of an image that is decoded in full, without loss if no side is given."""
    image = decode(path)
    if side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    _save(image, copy)


def _save(image: Image.Image, copy: Path) -> None:
    temporary = copy.with_name(f"{copy.stem}-{secrets.token_hex(4)}.tmp")
    if copy.suffix == ".png":
        image.save(temporary, "PNG")
    else:
        image.save(temporary, "WEBP", quality=82)
    temporary.replace(copy)
