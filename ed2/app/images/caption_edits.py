"""Changing a caption: the one thing that ever writes into a folder of images, and only when a person asks for it."""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ed2.data.walk import printable
from ed2.disk import write_whole
from ed2.errors import Ed2Error
from ed2.small_files import read_object

EXTENSIONS = (".txt", ".caption")
MAX_CHARACTERS = 10_000


@dataclass(frozen=True)
class CaptionEdits:
    """Writes captions beside their images and keeps what was there before.

    Attributes:
        folder: where the old texts are kept.
    """

    folder: Path

    def save(self, image: Path, text: str) -> Path:
        """Write the caption of an image into its side-car and give back the side-car.

        Raises:
            Ed2Error: it is too long, cannot be written, or its image is gone; what was there is unchanged.
        """
        if len(text) > MAX_CHARACTERS:
            raise Ed2Error(
                "The caption is not saved", f"it has more than {MAX_CHARACTERS:,} characters.", "Shorten it."
            )
        if not image.is_file():
            what = f"{printable(image.name)} is no longer there."
            raise Ed2Error("The caption is not saved", what, "Press Check to see which images there are.")
        target = side_car(image)
        try:
            self._keep(target)
            write_whole(target, (" ".join(text.split()) + "\n").encode())
        except OSError as error:
            raise Ed2Error("The caption is not saved", f"{error.strerror or error}.", "") from None
        return target

    def undo(self, image: Path) -> bool:
        """Put back what was there before the last save; false where nothing was saved.

        Raises:
            Ed2Error: it cannot be written.
        """
        target = side_car(image)
        records = self._records(target)
        if not records:
            return False
        try:
            old = read_object(records[-1])["old"]
            if old is None:
                target.unlink(missing_ok=True)
            else:
                write_whole(target, base64.b64decode(old))
        except OSError as error:
            raise Ed2Error("The caption is not put back", f"{error.strerror or error}.", "") from None
        except (ValueError, KeyError, TypeError):
            fix = "Delete that file; the caption stays as it is."
            raise Ed2Error("The caption is not put back", f"what was kept in {records[-1]} is damaged.", fix) from None
        records[-1].unlink()
        return True

    def _keep(self, target: Path) -> None:
        old = base64.b64encode(target.read_bytes()).decode() if target.exists() else None
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"path": str(target), "old": old}
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.json"
        write_whole(self.folder / name, printable(json.dumps(record, ensure_ascii=False)).encode())

    def _records(self, target: Path) -> list[Path]:
        """What was kept of a side-car, oldest first."""
        found = []
        for file in sorted(self.folder.glob("[!.]*.json")):
            try:
                if read_object(file)["path"] == str(target):
                    found.append(file)
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return found


def side_car(image: Path) -> Path:
    """The caption file of an image: the one that is there, else a new .txt beside it."""
    for extension in EXTENSIONS:
        if (path := image.with_suffix(extension)).exists():
            return path
    return image.with_suffix(EXTENSIONS[0])
