"""Where a public model goes: the hub's cache, in its own layout, or a folder of the user.

Source of the layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ed2.app.hub.selection import HubFile, Offer
from ed2.checkpoint.room import existing
from ed2.disk import sha256_of, write_whole
from ed2.errors import ModelError, Problem
from ed2.models.files.base_model import HUB_FOLDER, SNAPSHOTS
from ed2.small_files import is_file
from ed2.text import file_size

SPARE_BYTES = 256 << 20
"""Left free on the disk."""
PARTIAL = ".incomplete"
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Destination:
    """Where a model goes: the hub's cache, in its own layout, or a folder of the user."""

    cache: Path
    offer: Offer
    target: Path | None

    @property
    def _model(self) -> Path:
        return self.cache / (HUB_FOLDER + self.offer.name.replace("/", "--"))

    @property
    def _folder(self) -> Path:
        return self.target or self._model / SNAPSHOTS / self.offer.commit

    @property
    def result(self) -> Path:
        """The folder, or the single file."""
        weights = self.offer.files[0].name
        is_single = not any(file.name.endswith(".json") for file in self.offer.files)
        if is_single:
            return self._folder / weights
        return self._folder

    def partial(self, file: HubFile) -> Path:
        """Where a file is received."""
        if self.target:
            path = self.target / file.name
            return path.with_name(path.name + PARTIAL)
        return self._model / "blobs" / (file.digest + PARTIAL)

    def has(self, file: HubFile) -> bool:
        """Whether a file is here, with the right content; a damaged one in the cache is removed.

        Raises:
            ModelError: another file of its name is in the user's folder.
        """
        path = self._folder / file.name
        if not is_file(path):
            blob = self._model / "blobs" / file.digest
            if self.target or not is_file(blob):
                return False
            if is_right(file, blob):
                self.put(file, blob)
                return True
            blob.unlink()
            return False
        if is_right(file, path):
            return True
        if self.target:
            problem = Problem(None, f"{path} is another file, which is not replaced.", "Choose another folder.")
            raise ModelError(f"{self.offer.name} cannot be downloaded:", [problem])
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        return False

    def put(self, file: HubFile, received: Path) -> None:
        """Put a received file in its place. In the cache a link leads to it where the system has links."""
        path = self._folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.target:
            received.replace(path)
            return
        blob = self._model / "blobs" / file.digest
        received.replace(blob)
        try:
            path.unlink(missing_ok=True)
            path.symlink_to(os.path.relpath(blob, path.parent))
        except OSError:  # Windows without the right to make links
            blob.replace(path)

    def finish(self) -> None:
        """Say in the cache that this is the version of the main branch."""
        if self.target is None:
            (self._model / "refs").mkdir(parents=True, exist_ok=True)
            write_whole(self._model / "refs" / "main", self.offer.commit.encode())

    def require_room(self) -> None:
        """Raise ModelError unless the disk has room for what is still missing."""
        missing = 0
        for file in self.offer.files:
            if not is_file(self._folder / file.name):
                partial = self.partial(file)
                missing += file.num_bytes
                if is_file(partial):
                    missing -= partial.stat().st_size
        place = existing(self._folder)
        free = shutil.disk_usage(place).free
        if missing and missing + SPARE_BYTES > free:
            what = f"it needs {file_size(missing)} more in {place}, where {file_size(free)} are free."
            problem = Problem(None, what, "Free some space, or give a folder on another drive as TARGET.")
            raise ModelError(f"{self.offer.name} cannot be downloaded:", [problem])


def is_right(file: HubFile, path: Path) -> bool:
    """Whether a file has the size and the hash that the hub says."""
    return path.stat().st_size == file.num_bytes and _digest_of(file, path) == file.digest


def _digest_of(file: HubFile, path: Path) -> str:
    if SHA256.fullmatch(file.digest):
        return sha256_of(path)
    content = path.read_bytes()  # small: the large ones have a SHA-256
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
